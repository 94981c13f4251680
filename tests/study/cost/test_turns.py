"""First tokens of two methods in turn."""

import json
from dataclasses import replace

import pytest
import torch

from lib.pruning import create
from lib.study import cli
from lib.study.cost import turns
from lib.study.cost.probe import Probe
from lib.study.cost.prompts import random_prompts


def probes(model):
    inputs = random_prompts(model, 1)
    return Probe(model, inputs, None, 1), Probe(model, inputs, create("random"), 1)


def test_a_drifting_machine_does_not_move_the_ratio(tiny, monkeypatch):
    baseline, probe = probes(tiny)
    order, drift = [], iter(range(1, 1000))

    def seconds(one, call):
        order.append("baseline" if one is baseline else "probe")
        slow = next(drift)
        return (2.0 if one is baseline else 1.0) * slow

    monkeypatch.setattr(turns, "_seconds", seconds)
    row = turns.in_turn(baseline, probe, way="plain", rounds=40, warmup=1)
    # round n: neighbours in time, 2n + 3 and 2n + 4 times as slow, in changing order
    expected = sorted(
        (s + 1) / (2 * s) if n % 2 == 0 else s / (2 * (s + 1))
        for n, s in ((n, 2 * n + 3) for n in range(40))
    )
    assert row["ratio"]["median"] == pytest.approx((expected[19] + expected[20]) / 2)
    assert row["ratio"]["low"] < row["ratio"]["median"] < row["ratio"]["high"]
    # by the order statistics of a binomial: 14th and 27th of 40
    assert row["ratio"]["low"] == pytest.approx(expected[13])
    assert row["ratio"]["high"] == pytest.approx(expected[26])
    assert order[:6] == ["baseline", "probe", "baseline", "probe", "probe", "baseline"]
    assert row["seconds"]["repeats"] == row["baseline"]["repeats"] == 40


def test_few_rounds_have_no_interval(tiny):
    row = turns.in_turn(*probes(tiny), way="plain", rounds=2)
    assert row["ratio"]["low"] is None and row["ratio"]["median"] > 0


@pytest.mark.parametrize("name", [None, "random", "fastv", "entropy"])
def test_a_step_behind_the_prompt_is_that_of_generate(tiny, name):
    probe = replace(probes(tiny)[0], pruner=name and create(name), new_tokens=2)
    with probe.active():
        token = probe.following()().logits[:, -1].argmax(-1)
        assert torch.equal(token, probe.generate()[:, 1])


def test_plain_calls_are_compared_with_the_unpruned_model(tiny, tmp_path):
    asked = ["benchmark", "--profile", "tiny", "--methods", "", "--batches", "1,2", "--repeats"]
    assert cli.main([*asked, "1", "--layers", "1", "--against", "random,unpruned"]) == 0
    path = tmp_path / "build/reproduce/tiny/results/benchmark.json"
    rows = json.loads(path.read_text())["first_token"]
    found = {(r["against"], r["batch"], r["way"]) for r in rows}
    assert found == {
        ("random", 1, "captured"), ("random", 2, "captured"),
        ("unpruned", 1, "plain"), ("unpruned", 1, "step"),
    }  # fmt: skip
    methods = {r["method"] for r in rows if r["against"] == "unpruned"}
    assert methods == {"random", "fastv", "entropy", "selection", "weighted"}


def test_methods_of_a_place_and_of_the_catalogue(tiny, tmp_path, capsys):
    asked = ["benchmark", "--profile", "tiny", "--methods", "", "--batches", "2", "--repeats", "1"]
    assert cli.main([*asked, "--layers", "0,1", "--against", "fastv,random"]) == 0
    path = tmp_path / "build/reproduce/tiny/results/benchmark.json"
    rows = json.loads(path.read_text())["first_token"]
    assert {(r["layer"], r["against"]) for r in rows} == {
        (0, "random"), (1, "random"), (1, "fastv"),
    }  # fmt: skip
    there = {r["method"] for r in rows if r["layer"] == 1 and r["against"] == "fastv"}
    assert there == {"unpruned", "random", "entropy", "selection", "weighted"}
    assert {r["way"] for r in rows} == {"captured"}  # one prompt alone is read plainly, too
    assert all(r["batch"] == 2 and r["keep"] == 0.5 for r in rows)
    assert cli.main([*asked, "--catalogue"]) == 0
    rows = [r for r in json.loads(path.read_text())["first_token"] if r.get("catalogue")]
    assert len({r["method"] for r in rows}) > 60 and {r["against"] for r in rows} == {"unpruned"}
    assert "of unpruned's" in capsys.readouterr().out
