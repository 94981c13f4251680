"""Runs: the clock that was named decides, and a stopped run goes on."""

import pytest
import torch

from lib.study.training.runs import Means, Run, descend


def run_of(folder, **how):
    torch.manual_seed(3)
    return Run("stage", folder, {"part": torch.nn.Linear(2, 2)}, {"rate": 1}, **how)


def test_steps_and_rates(tmp_path):
    run = run_of(tmp_path, steps=100)
    rates = []
    while not run.over:
        rates.append(run.rate(1.0, warmup=10))
        run.step += 1
    assert len(rates) == 100 and rates[0] < rates[5] < rates[9]
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 0.012


def test_seconds_decide_where_given(tmp_path):
    run = run_of(tmp_path, seconds=1000.0)
    assert not run.over and run.progress < 0.1
    run.before = 1000.0  # as if an earlier run had used the time up
    assert run.over and run.progress == 1


def test_a_stopped_run_goes_on(tmp_path):
    run = run_of(tmp_path, steps=9)
    first = torch.rand(1, generator=run.generator("cpu", 1))
    run.step = 4
    run.note(loss=0.5)
    kept = run.parts["part"].weight.detach().clone()
    run.checkpoint()
    again = run_of(tmp_path, steps=9)
    assert again.step == 4 and torch.equal(again.parts["part"].weight, kept)
    assert again.rows == run.rows and (tmp_path / "stage.jsonl").read_text().count("\n") == 1
    assert torch.rand(1, generator=again.generator("cpu", 1)) != first
    with pytest.raises(ValueError, match=r"other settings .rate: 1 there, 2 here"):
        Run("stage", tmp_path, {"part": torch.nn.Linear(2, 2)}, {"rate": 2}, steps=9)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path):
    run = run_of(tmp_path, steps=9)
    run.step = 4
    before = run.checkpoint().read_bytes()
    run.step = 5
    run.plan["rate"] = lambda: None  # which has no stored form
    with pytest.raises(Exception, match="pickle"):
        run.checkpoint()
    assert run.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["stage.pt"]


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(ValueError, match="give steps or seconds"):
        run_of(tmp_path)
    with pytest.raises(RuntimeError, match="loss is nan at step 0"):
        run_of(tmp_path, steps=1).note(loss=float("nan"))


def test_means_are_of_the_steps_since_the_last_note(tmp_path):
    run = Run("words", tmp_path, {}, {}, steps=5)
    told = []
    means = Means(run, ("a", "b"), every=2, report=lambda run: told.append(run.step))
    for number in range(5):
        run.advance()
        means.add(torch.tensor(float(number), requires_grad=True), torch.tensor(0.123456))
    assert told == [2, 4, 5], "the last step has a note, too"
    assert [row["a"] for row in run.rows] == [0.5, 2.5, 4.0]
    assert {row["b"] for row in run.rows} == {0.1235}


def test_a_step_has_a_gradient_of_norm_one_at_most():
    weight, other = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    optimizer = torch.optim.SGD([weight, other], lr=1.0)
    (weight * torch.tensor([30.0, 40.0])).sum().backward()
    descend(optimizer)
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.6, -0.8]))
    assert weight.grad is None and not other.detach().any()
