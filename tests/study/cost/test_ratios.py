"""The ratios of `make bench` come from runs of what they name, on small inputs."""

import json

import pytest
import torch

from lib.study import captioning
from lib.study.cost import ratios
from lib.study.data.coco import read_karpathy
from lib.study.models import load
from tests import tiny_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_study.make_root(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def study(folder):
    listing = folder / "data" / "raw" / "scenes" / "dataset_scenes.json"
    return load(str(folder / "data" / "embedded")), read_karpathy(listing, "test")


def test_captions_with_and_without_pruning_take_turns(study, monkeypatch):
    calls = []

    def spy(model, processor, examples, *, pruner, **options):
        records = captioning.caption(model, processor, examples, pruner=pruner, **options)
        kept = {record["kept"] / record["visual_tokens"] for record in records}
        calls.append((kept, len(records), options["batch_size"], torch.get_num_threads()))
        return records

    monkeypatch.setattr(ratios, "caption", spy)
    before = torch.get_num_threads()
    full, pruned, ratio = ratios.captioning_ratio(*study, batch_size=2, threads=1, repeats=3)
    assert torch.get_num_threads() == before
    assert calls[:2] == [({1.0}, 2, 2, 1), ({0.5}, 2, 2, 1)]  # the warm-up
    assert calls[2:] == [({1.0}, 3, 2, 1), ({0.5}, 3, 2, 1)] * 3
    assert full > 0 and pruned > 0 and ratio > 0


def test_the_captioning_ratio_is_that_of_neighbouring_runs(study, monkeypatch):
    times = iter([1.0, 1.0, 3.0, 2.0, 30.0, 20.0, 6.0, 4.0])
    monkeypatch.setattr(ratios, "_seconds", lambda function: next(times))
    assert ratios.captioning_ratio(*study, threads=1, repeats=3) == (6.0, 4.0, 1.5)


def test_threads_are_given_back_after_an_error(study, monkeypatch):
    before = torch.get_num_threads()

    def fail(*args, **options):
        raise OSError("no image")

    monkeypatch.setattr(ratios, "caption", fail)
    with pytest.raises(OSError, match="no image"):
        ratios.captioning_ratio(*study, threads=before + 1)
    assert torch.get_num_threads() == before


def test_small_ratios_of_scores_and_clusters():
    naive, exact, error = ratios.leave_one_out_ratio(48, repeats=2)
    assert naive > 0 and exact > 0 and error < 1e-9
    theirs, ours, inertia = ratios.kmeans_ratio(60, 32, 5, repeats=2)
    assert theirs > 0 and ours > 0 and 0.8 < inertia < 1.25


def test_every_ratio_is_printed_beside_what_is_asked(study, monkeypatch, capsys):
    monkeypatch.setattr(ratios, "leave_one_out_ratio", lambda size: (1.0, 0.01, 1e-15))
    monkeypatch.setattr(ratios, "kmeans_ratio", lambda *shape: (0.05, 0.01, 1.01))
    monkeypatch.setattr(ratios, "captioning_ratio", lambda *given: (0.6, 0.3, 2.0))
    monkeypatch.setattr(ratios.scenes, "ensure_scenes", lambda split, limit: None)
    monkeypatch.setattr(ratios.coco, "read_karpathy", lambda listing, split: study[1])
    monkeypatch.setattr(ratios.models, "load", lambda name, device: study[0])
    ratios.report()
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("a caption")]
    assert "200.0 ms" in line and "100.0 ms" in line and "2.00x" in line and "1.15x" in line
    assert sum("100x" in line for line in lines) == 2
    assert sum("5.00x" in line for line in lines) == 1


def test_what_is_printed_is_what_is_recorded(monkeypatch, tmp_path, capsys):
    row = {"what": "a thing", "plain": 0.5, "ours": 0.25, "ratio": 2.0, "asked": 1.5, "remark": "!"}
    monkeypatch.setattr(ratios, "rows", lambda: iter([row]))
    ratios.report(tmp_path / "bench.json")
    assert json.loads((tmp_path / "bench.json").read_text())["rows"] == [row]
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("a thing"))
    assert line.split() == ["a", "thing", "500.0", "ms", "250.0", "ms", "2.00x", "1.5x", "!"]
