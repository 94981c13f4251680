"""The model benchmark writes one honest row a method, on a tiny model."""

import json

import pytest

from lib import benchmark
from lib.models import Loaded
from tests.tiny import tiny_llava


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    model = tiny_llava()
    monkeypatch.setattr(benchmark, "load", lambda name: Loaded(model, None, name))
    monkeypatch.setattr(benchmark.paths, "ROOT", tmp_path)
    return model


def test_rows_for_every_method(tiny, tmp_path, capsys):
    arguments = ["--profile", "tiny", "--batches", "2", "--new-tokens", "3", "--repeats", "1"]
    assert benchmark.main(arguments) == 0
    document = json.loads((tmp_path / "data/results/tiny/benchmark.json").read_text())
    assert [row["method"] for row in document["rows"]] == list(benchmark.METHODS)
    for row in document["rows"]:
        assert row["batch"] == 2 and row["static_agreement"] == 1.0
        assert row["kept"] == (1.0 if row["method"] == "unpruned" else 0.5)
        assert (row["flops"]["scorer"] > 0) == (row["method"] not in ("unpruned", "random", "tome"))
    assert document["dtype"] == "float32" and document["attention"] == "sdpa"
    assert capsys.readouterr().out.count("static") == len(benchmark.METHODS)


def test_prompts_are_the_same_for_every_method(tiny):
    first, second = (benchmark.prompts(tiny, 3) for _ in range(2))
    assert all(first[name].equal(second[name]) for name in first)
