"""Where a decoding step's time goes: what is named adds up, and steps alone are counted."""

import json

import pytest

from lib.study import cli
from lib.study.cost import step


def test_a_step_is_what_the_prompt_is_not(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(step, "NAMED", 10_000)  # whatever takes how long
    asked = ["benchmark", "--profile", "tiny", "--methods", "", "--batches", "2", "--repeats", "2"]
    assert cli.main([*asked, "--new-tokens", "5", "--step"]) == 0
    path = tmp_path / "build/reproduce/tiny/results/benchmark.json"
    (row,) = json.loads(path.read_text())["step"]
    counts = {kernel["name"]: kernel["count"] for kernel in row["kernels"]}
    layers = len(tiny.model.language_model.layers)
    # four products of attention and three of the MLP a layer, and the head
    products = counts.get("aten::mm", 0) + counts.get("aten::addmm", 0)
    assert products == pytest.approx(7 * layers + 1)
    assert row["compiled"] is False
    assert row["busy"] == pytest.approx(sum(kernel["seconds"] for kernel in row["kernels"]))
    language = tiny.model.language_model
    weights = [*language.layers.parameters(), *language.norm.parameters()]
    weights += tiny.lm_head.parameters()
    cache = row["bytes"] - sum(p.numel() * p.element_size() for p in weights)
    assert cache > 0 and cache % 2 == 0
    assert row["floor"] == pytest.approx(row["bytes"] / row["bytes_per_second"])
    assert "a step at batch 2" in capsys.readouterr().out
