"""The catalogue's stage stores what each method does, and makes only what is missing."""

import json
import shutil

import pytest

from lib.study import grid, paths
from lib.study.captioning import caption
from lib.study.divergence import divergence
from lib.study.evaluation import score_many
from lib.study.profiles import load_profile
from lib.study.records import read_records
from lib.study.run import share
from lib.study.stages.catalogue import make_catalogue, parts, said
from lib.study.stages.ranking import spoken
from lib.study.stages.study import Study
from tests import tiny_study

#: one of each kind: chosen in the tower, merged behind it, within it, and chance
SOME = ["fastervlm", "pool", "prumerge", "random", "tome"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tiny_study.make_root(tmp_path_factory.mktemp("root"))
    profile = folder / "notebooks" / "profiles" / "tiny.yaml"
    profile.write_text(profile.read_text() + "catalogue_limit: 3\ncatalogue_captions: 2\n")
    return folder


@pytest.fixture
def study(root, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", root)
    monkeypatch.setattr(grid.pruning, "available", lambda: SOME)
    return Study(load_profile("tiny"), "cpu", progress=False)


def results():
    return paths.run("tiny").results


def test_records_are_what_every_method_does(study):
    make_catalogue(study)
    read, heard = parts(study)
    assert [len(part.images) for part in (read, heard)] == [3, 2]
    assert {method.name for method in read.table.values()} == {None, *SOME}
    model, processor, _ = study.loaded
    how = {"prompt": study.profile.prompt, "progress": False}
    rows, captions = read_records(read.folder), spoken(heard.folder)
    for place, (slug, method) in enumerate(read.table.items()):
        made = {slug: method.create()}
        expected = divergence(model, processor, read.images, made, batch_size=3, **how)[slug]
        for row, one in zip(rows, expected, strict=True):
            assert row["kl"][place] == pytest.approx(one["kl"], rel=1e-3, abs=1e-7), slug
        alone = caption(
            model, processor, heard.images, pruner=method.create(), max_new_tokens=3, **how
        )
        assert captions[slug] == [
            {name: record[name] for name in ("image_id", "caption")} for record in alone
        ], slug


def test_the_summary_is_of_these_records(study):
    make_catalogue(study)
    document = json.loads((results() / "catalogue.json").read_text())
    read, heard = parts(study)
    assert (document["images"], document["captioned"]) == (3, 2)
    assert (document["tokens"], document["depth"]) == (36, 4)
    scored = score_many(spoken(heard.folder), heard.images, metrics=("CIDEr",), n_bootstrap=0)
    rows = read_records(read.folder)
    for place, (slug, row) in enumerate(document["methods"].items()):
        values = [one["kl"][place] for one in rows]
        assert row["values"]["divergence"] == pytest.approx(sum(values) / 3)
        assert row["values"]["CIDEr"] == pytest.approx(scored[slug].values["CIDEr"])
        assert row["average"] <= row["options"].get("average", 1) * 36 + 1e-9
        timed = row["groups"].get("average") == "22"
        assert ("scorer" in row) == timed
        assert ("coverage" in row) == (timed and row["method"] in ("fastervlm", "random"))
        if timed:
            assert 0 < row["scorer"]["median"] < row["prefill"]["median"]
            assert 0 < row.get("coverage", 1) <= 1
    for name, gaps in document["comparisons"].items():
        rival, metric = name.split(" ")
        assert {gap["metric"] for gap in gaps} == {metric}
        assert {gap["b"] for gap in gaps} == {rival} and len(gaps) == gaps[0]["tests"] >= 4


def test_what_is_there_stays_and_what_is_missing_is_made(study):
    make_catalogue(study)
    assert not make_catalogue(study)
    folder = results() / "catalogue" / "captions"
    whole = (folder / "records.jsonl").read_text()
    (folder / "records.jsonl").unlink()
    assert make_catalogue(study)
    assert (folder / "records.jsonl").read_text() == whole
    (results() / "catalogue.json").unlink()
    assert make_catalogue(study) and (results() / "catalogue.json").is_file()


def test_launched_processes_do_their_share(study, monkeypatch):
    make_catalogue(study)
    folders = [results() / "catalogue" / name for name in ("divergence", "captions")]
    before = [read_records(folder) for folder in folders]
    shutil.rmtree(results() / "catalogue")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        share(Study(load_profile("tiny"), "cpu", progress=False), stages=("catalogue",))
    after = [read_records(folder) for folder in folders]
    assert after[1] == before[1]
    for row, one in zip(after[0], before[0], strict=True):
        assert row["kl"] == pytest.approx(one["kl"], rel=1e-3, abs=1e-7)


def test_a_profile_without_images_has_no_catalogue(study, monkeypatch):
    for name, value in (("catalogue_limit", 0), ("random_weights", True)):
        whole = load_profile("tiny")
        object.__setattr__(whole, name, value)
        other = Study(whole, "cpu", progress=False)
        assert not make_catalogue(other) and other.device_name is None, "no model was loaded"


def test_a_record_holds_each_caption_once():
    rows = [{"image_id": 3, "caption": text, "kept": 1} for text in ("b", "a", "b", "b")]
    assert said(rows) == {"image_id": 3, "captions": ["b", "a"], "which": [0, 1, 0, 0]}
