"""Caption stages: adapters and projector learn, the tower only where told to, rewards rise."""

import pytest
import torch

from lib.study import models
from lib.study.training import captioner as ca
from lib.study.training.adapters import add_adapters
from lib.study.training.photographs import PLAIN
from lib.study.training.runs import Run

from .conftest import TEXT, VISION

CAPTIONS = [["a red circle", "one red circle"], ["two blue squares", "blue squares"]] * 3


@pytest.fixture
def captioner(processor):
    """Plain red and plain blue photographs; words far enough apart for adapters to choose."""
    built = models.build_embedded(processor.tokenizer, vision=VISION, text=TEXT, random_state=3)
    with torch.no_grad():
        for weight in built.parameters():
            if weight.ndim == 2:
                weight.mul_(9)
    add_adapters(built.eval(), rank=8, dropout=0.0)
    colours = torch.tensor([[200, 10, 10], [10, 10, 200]] * 3, dtype=torch.uint8)
    photographs = colours[:, None, None].expand(-1, 56, 56, -1).contiguous()
    return ca.Captioner(built, processor, photographs, CAPTIONS, longest=12)


def run_of(captioner, folder, name, **how):
    parts = {"learning": captioner.trainables, "tower": captioner.tower}
    return Run(name, folder, parts, {}, **how)


def test_captions_are_learnt_with_the_tower_frozen(captioner, tmp_path):
    plan = ca.CaptionPlan(
        batch_size=4, room=40, longest=12, learning_rate=1e-2, warmup=5, smoothing=0.0,
        augmentation=PLAIN,
    )  # fmt: skip
    tower = {n: w.clone() for n, w in captioner.tower.state_dict().items()}
    frozen = captioner.model.lm_head.weight.detach().clone()
    run = run_of(captioner, tmp_path, "captions", steps=90)
    ca.learn_captions(captioner, plan, run, report_every=30)
    losses = [row["caption_loss"] for row in run.rows]
    assert losses[-1] < 0.6 * losses[0]
    said = captioner.greedy(captioner.photographs[:2])
    assert "red" in said[0].lower() and "blue" in said[1].lower()
    assert all(torch.equal(w, tower[n]) for n, w in captioner.tower.state_dict().items())
    assert torch.equal(captioner.model.lm_head.weight, frozen)


def test_the_tower_learns_where_it_has_a_rate(captioner, tmp_path):
    plan = ca.CaptionPlan(batch_size=2, room=40, longest=12, tower_rate=0.5, warmup=1)
    before = captioner.tower.embeddings.patch_embedding.weight.detach().clone()
    run = run_of(captioner, tmp_path, "joint", steps=2)
    ca.learn_captions(captioner, plan, run)
    assert not torch.equal(captioner.tower.embeddings.patch_embedding.weight, before)


def test_hidden_tokens_are_as_many_as_planned(captioner):
    assert captioner.keep(3, None, 0) is None
    keep = captioner.keep(400, ca.Drop(full_share=0.25, lowest=0.1), 7)
    kept = keep.sum(1)
    assert keep.shape == (400, 16) and kept.min() >= 2
    assert (kept == 16).float().mean() == pytest.approx(0.27, abs=0.07)
    assert torch.equal(keep, captioner.keep(400, ca.Drop(full_share=0.25, lowest=0.1), 7))


@pytest.mark.parametrize("drop", [None, ca.Drop()])
def test_rewards_rise(captioner, tmp_path, drop):
    plan = ca.CaptionPlan(
        batch_size=6, room=40, longest=12, learning_rate=1e-2, warmup=5, smoothing=0.0,
        augmentation=PLAIN, drop=drop,
    )  # fmt: skip
    ca.learn_captions(captioner, plan, run_of(captioner, tmp_path, "captions", steps=60))
    run = run_of(captioner, tmp_path, "scores", steps=30)
    gentle = ca.CaptionPlan(
        batch_size=6, longest=12, learning_rate=3e-3, warmup=2, augmentation=PLAIN, drop=drop
    )
    ca.learn_from_scores(captioner, gentle, run, workers=1, report_every=10)
    rewards = [row["reward"] for row in run.rows]
    assert rewards[-1] > rewards[0] > 0


@pytest.mark.parametrize("learning", [True, False])
def test_an_error_leaves_the_modes_as_they_were(captioner, learning, tmp_path):
    captioner.model.train(learning)
    captioner.tower.eval()  # held still while the rest learns
    modes = {name: module.training for name, module in captioner.model.named_modules()}
    with pytest.raises(AttributeError):
        captioner.greedy([None])
    for teach in (ca.learn_captions, ca.learn_from_scores):
        run = run_of(captioner, tmp_path, teach.__name__, steps=1)
        run.rate = lambda *_, **__: 1 / 0
        with pytest.raises(ZeroDivisionError):
            teach(captioner, ca.CaptionPlan(), run)
    assert {name: m.training for name, m in captioner.model.named_modules()} == modes


def test_every_photograph_comes_before_any_comes_again(captioner):
    plan = ca.CaptionPlan(batch_size=4)
    seen = torch.cat([captioner.order(step, plan) for step in range(3)])
    assert sorted(seen[:6].tolist()) == list(range(6)) == sorted(seen[6:].tolist())


def test_a_stopped_run_ends_as_an_unbroken_one(captioner, tmp_path):
    plan = ca.CaptionPlan(batch_size=4, room=40, longest=12, learning_rate=1e-2, warmup=2)
    start = captioner.trainables.state_dict()
    whole = run_of(captioner, tmp_path / "whole", "captions", steps=6)
    ca.learn_captions(captioner, plan, whole)
    expected = captioner.trainables.state_dict()
    captioner.trainables.load_state_dict(start)
    first = run_of(captioner, tmp_path / "broken", "captions", steps=6, limit=1e-9)
    assert first.halted and not first.over
    first.limit = 0.0
    advance = first.advance

    def stop_after_four():
        advance()
        first.limit = 1e-9 if first.step == 4 else 0.0

    first.advance = stop_after_four
    ca.learn_captions(captioner, plan, first)
    assert first.step == 4
    captioner.trainables.load_state_dict(start)  # a new process starts from here
    again = run_of(captioner, tmp_path / "broken", "captions", steps=6)
    ca.learn_captions(captioner, plan, again)
    assert again.step == 6
    for name, weight in captioner.trainables.state_dict().items():
        assert torch.allclose(weight, expected[name], atol=1e-5), name
