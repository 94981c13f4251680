"""The model benchmark writes honest rows, on a tiny model."""

import json

import pytest
import torch

from lib.pruning import create
from lib.study.cost import benchmark
from lib.study.models import Loaded
from tests.tiny import tiny_llava


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    model = tiny_llava()
    monkeypatch.setattr(benchmark, "load", lambda name, **_: Loaded(model, None, name))
    monkeypatch.setattr(benchmark.paths, "ROOT", tmp_path)
    return model


@pytest.fixture
def stored(tmp_path):
    return lambda: json.loads((tmp_path / "data/results/tiny/benchmark.json").read_text())


SHORT = ["--profile", "tiny", "--new-tokens", "3", "--repeats", "1"]


def test_rows_for_every_method(tiny, stored, capsys, operations_clock):
    assert benchmark.main([*SHORT, "--batches", "2"]) == 0
    document = stored()
    assert [row["method"] for row in document["rows"]] == list(benchmark.METHODS)
    for row in document["rows"]:
        assert row["batch"] == 2 and row["static_agreement"] == 1.0
        assert row["kept"] == (1.0 if row["method"] == "unpruned" else 0.5)
        assert (row["flops"]["scorer"] > 0) == (row["method"] not in ("unpruned", "random", "tome"))
        assert 0 < row["static_prefill"]["median"] < row["static_end_to_end"]["median"]
    assert document["dtype"] == "float32" and document["attention"] == "sdpa"
    assert capsys.readouterr().out.count("captured") == len(benchmark.METHODS)


def test_parts_measured_again_replace_what_was_there(tiny, stored):
    some = [*SHORT, "--methods", "fastv", "unpruned", "--generate", "unpruned"]
    assert benchmark.main([*some, "--batches", "1", "2", "--keep", "0.5", "0.25"]) == 0
    rows = {(r["method"], r["batch"], r["keep"]): r for r in stored()["rows"]}
    assert len(rows) == len(stored()["rows"]) == 2 + 4
    through_generate = {key for key, row in rows.items() if "end_to_end" in row}
    assert through_generate == {("unpruned", 1, 1.0), ("unpruned", 2, 1.0)}
    assert benchmark.main([*some, "--batches", "1"]) == 0
    assert len(stored()["rows"]) == 6


def test_growth(tiny, stored):
    arguments = [*SHORT, "--methods", "--batches", "1", "--growth", "16", "36", "64"]
    before = tiny.model.vision_tower.embeddings if hasattr(
        tiny.model.vision_tower, "embeddings") else None  # fmt: skip
    assert benchmark.main(arguments) == 0
    rows = stored()["growth"]
    assert [(r["tokens"], r["method"]) for r in rows] == [
        (n, m) for n in (16, 36, 64) for m in benchmark.GROWING
    ]
    for row in rows:
        assert (row["scorer_share"] > 0) == (row["method"] != "unpruned")
        assert row["kept"] == (1.0 if row["method"] == "unpruned" else 0.5)
    assert tiny.config.vision_config.image_size == 42
    if before is not None:
        assert tiny.model.vision_tower.embeddings is before
    assert "rows" not in stored()


def test_a_number_of_tokens_that_is_no_square_is_refused(tiny, capsys):
    assert benchmark.main([*SHORT, "--methods", "--growth", "50"]) == 1
    assert "must be a square, got 50" in capsys.readouterr().err


def test_agreement_and_the_definition(tiny, stored, monkeypatch):
    assert benchmark.main([*SHORT, "--agreement", "--methods", "unpruned", "entropy"]) == 0
    assert [(r["method"], r["same"]) for r in stored()["agreement"]] == [
        ("unpruned", 1.0),
        ("entropy", 1.0),
    ]
    record = benchmark.Record(benchmark.paths.results_dir("tiny") / "benchmark.json", {})
    benchmark.definition(record, torch.device("cpu"), tokens=40, width=16)
    (row,) = stored()["leave_one_out"]
    assert row["ratio"] == row["naive"]["median"] / row["exact"]["median"]
    assert row["largest_error_over_spread"] < 1e-4 and "agreement" in stored()


def test_the_scorer_of_a_growing_model_sees_every_token(tiny):
    with benchmark.resized(tiny, 64), create("entropy")(tiny) as pruner:
        tiny(**benchmark.prompts(tiny, 1))
    assert len(pruner.kept_masks[0]) == 64 and len(pruner.kept[0]) == 32


def test_prompts_are_the_same_for_every_method(tiny):
    first, second = (benchmark.prompts(tiny, 3) for _ in range(2))
    assert all(first[name].equal(second[name]) for name in first)
