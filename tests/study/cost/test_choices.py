"""The rules timed alone: each chooses what it is asked for."""

import json

import pytest
import torch

from lib.study import cli, paths
from lib.study.cost import choices


@pytest.mark.parametrize("rule", choices.RULES)
def test_a_rule_chooses_as_many_as_it_is_asked_for(rule):
    tokens = torch.randn(2, 24, 8, generator=torch.Generator().manual_seed(0))
    chosen = choices.RULES[rule](tokens, 5)
    if chosen.dtype != torch.bool:  # the picks in order
        chosen = torch.zeros(2, 24, dtype=torch.bool).scatter(1, chosen, True)
    assert chosen.sum(-1).tolist() == [5, 5]


def test_every_rule_count_and_batch_has_a_row(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(choices, "WIDTH", 8)
    asked = ["choices", "--profile", "tiny", "--kept", "3, 5", "--batches", "1,2", "--tokens", "24"]
    assert cli.main([*asked, "--repeats", "2"]) == 0
    path = tmp_path / "build/reproduce/tiny/results/choices.json"
    rows = json.loads(path.read_text())["choices"]
    named = [(row["batch"], row["kept"], row["rule"]) for row in rows]
    assert named == [(b, k, rule) for b in (1, 2) for k in (3, 5) for rule in choices.RULES]
    assert all(row["seconds"]["repeats"] == 2 and row["tokens"] == 24 for row in rows)
    assert capsys.readouterr().out.count("ms an image") == len(rows)
    more = ["--tokens", "36", "--kept", "18", "--batches", "1", "--repeats", "1"]
    assert cli.main(["choices", "--profile", "tiny", *more, "--rule", "Determinant"]) == 0
    assert json.loads(path.read_text())["choices"][:-1] == rows
    assert json.loads(path.read_text())["choices"][-1]["rule"] == "Determinant"


@pytest.mark.parametrize(
    "options, message",
    [
        (["--rule", "Best"], "unknown rule 'Best': choose from Entropy-Prune, "),
        (["--tokens", "24"], "--kept 288 of 24 tokens"),
    ],
)
def test_what_cannot_be_timed_is_refused(options, message, capsys):
    assert cli.main(["choices", "--profile", "tiny", *options]) == 1
    assert message in capsys.readouterr().err
