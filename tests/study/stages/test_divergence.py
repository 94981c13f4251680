"""The stage stores what `divergence` finds, lean, and measures only what is missing."""

import json
import shutil
from dataclasses import replace

import pytest

from lib.study import paths
from lib.study.divergence import divergence
from lib.study.profiles import load_profile
from lib.study.records import read_records
from lib.study.run import share
from lib.study.stages.captions import make_captions
from lib.study.stages.divergence import PARTS, lean, make_divergence, parts
from lib.study.stages.study import Study
from tests import tiny_study


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_study.make_root(tmp_path_factory.mktemp("root"))


@pytest.fixture
def study(root, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", root)
    return Study(load_profile("tiny"), "cpu", progress=False)


def folders():
    return {name: paths.run("tiny").results / "divergence" / name for name in PARTS}


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())["parameters"]


def test_records_are_what_divergence_finds(study):
    assert make_divergence(study)
    images = {"table": 3, "ablations": 2, "places": 2}
    for part in parts(study):
        name = part.folder.name
        rows = read_records(part.folder)
        assert [row["image_id"] for row in rows] == [e.image_id for e in part.images]
        assert len(rows) == images[name]
        slugs = list(manifest(part.folder)["methods"])
        assert slugs == list(part.table)
        some = {slug: part.table[slug].create() for slug in slugs[:3] + slugs[-1:]}
        model, processor, _ = study.loaded
        how = {"prompt": study.profile.prompt, "progress": False, "batch_size": 3}
        found = divergence(model, processor, part.images, some, **how)
        for slug, expected in found.items():
            place = slugs.index(slug)
            for row, one in zip(rows, expected, strict=True):
                assert row["tokens"] == one["tokens"] and row["kept"][place] == one["kept"]
                for key in ("kl", "nll"):
                    assert row[key][place] == pytest.approx(one[key], rel=1e-3, abs=1e-7)
    assert {"fastv-at2-25", "random-at0-25"} <= set(manifest(folders()["places"])["methods"])


def test_captioning_measures_table_1_on_the_way(study, monkeypatch):
    monkeypatch.setattr("lib.study.stages.divergence.divergences", None)  # would fail
    for path in (folders()["table"], paths.run("tiny").results / "captions"):
        shutil.rmtree(path, ignore_errors=True)
    assert make_captions(study)
    (part, *_) = parts(study)
    assert part.missing == 0
    part.run(study)  # has nothing to measure, and finds its records in order
    ids = [image.image_id for image in part.images]
    assert [row["image_id"] for row in read_records(part.folder)] == ids


def test_what_is_there_stays_and_what_is_missing_is_measured(study):
    make_divergence(study)
    assert not make_divergence(study)
    folder = folders()["table"]
    whole = (folder / "records.jsonl").read_text()
    (folder / "records.jsonl").write_text(whole.splitlines(keepends=True)[0])
    assert make_divergence(study)
    again = read_records(folder)
    for row, line in zip(again, whole.splitlines(), strict=True):
        before = json.loads(line)
        assert row["kl"] == pytest.approx(before["kl"], rel=1e-3, abs=1e-7)


def test_another_method_or_order_measures_its_part_again(study, capsys):
    make_divergence(study)
    path = folders()["places"] / "manifest.json"
    document = json.loads(path.read_text())
    methods = document["parameters"]["methods"]
    document["parameters"]["methods"] = dict(reversed(methods.items()))
    path.write_text(json.dumps(document))
    assert make_divergence(study)
    assert list(manifest(folders()["places"])["methods"]) == list(methods)
    assert "places: made with other settings" in capsys.readouterr().out


def test_launched_processes_measure_their_share(study, monkeypatch):
    make_divergence(study)
    before = {name: read_records(folder) for name, folder in folders().items()}
    shutil.rmtree(paths.run("tiny").results / "divergence")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        share(Study(load_profile("tiny"), "cpu", progress=False), stages=("divergence",))
    monkeypatch.delenv("WORLD_SIZE")
    after = {name: read_records(folder) for name, folder in folders().items()}
    assert before == after
    assert not list(paths.run("tiny").results.glob("divergence/*/records.rank-*"))
    assert not make_divergence(study)


def test_random_weights_have_nothing_to_move(study):
    study.profile = replace(study.profile, random_weights=True)
    assert not make_divergence(study) and study.device_name is None, "no model was loaded"


def test_lean_records_hold_a_list_over_the_methods():
    image = {"image_id": 7, "tokens": 3, "visual_tokens": 16}
    rows = {
        "a": [image | {"kl": 0.0, "nll": 0.123456789, "kept": 16}],
        "b": [image | {"kl": 1.23456789e-4, "nll": 2.0, "kept": 4}],
    }
    line = image | {"kl": [0.0, 1.2346e-4], "nll": [0.12346, 2.0], "kept": [16, 4]}
    assert lean(rows) == [line]
