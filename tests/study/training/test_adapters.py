"""Adapters: they change nothing at first, and a plain copy says what the adapted model says."""

import pytest
import torch

from lib.study import models
from lib.study.training.adapters import PlainCopy, Trainables, add_adapters

from .conftest import TEXT, VISION


def states(language, seed=0):
    ids = torch.randint(0, 300, (2, 9), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return language(input_ids=ids).last_hidden_state


def test_fresh_adapters_change_nothing_and_alone_learn(processor):
    built = models.build_embedded(processor.tokenizer, vision=VISION, text=TEXT).eval()
    before = states(built.model.language_model)
    add_adapters(built, rank=2)
    assert torch.equal(states(built.model.language_model), before)
    learning = {n for n, p in built.named_parameters() if p.requires_grad}
    assert learning and all("lora_" in name for name in learning)


def test_a_plain_copy_follows_the_adapters(model):
    copy = PlainCopy(model, torch.float32)
    language = model.model.language_model
    assert torch.allclose(states(copy.language), states(language), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        for weight in Trainables(model).named().values():
            weight.mul_(1.1)
    assert not torch.allclose(states(copy.language), states(language), atol=1e-2)
    copy.refresh()
    assert torch.allclose(states(copy.language), states(language), rtol=1e-4, atol=1e-4)


def test_trainables_come_back_and_strangers_are_refused(model):
    trainables = Trainables(model)
    kept = trainables.state_dict()
    assert "layers.1.mlp.down_proj.A" in kept and "projector.linear_2.bias" in kept
    with torch.no_grad():
        for weight in trainables.named().values():
            weight.zero_()
    trainables.load_state_dict(kept)
    assert all(torch.equal(w, kept[n]) for n, w in trainables.named().items())
    kept.pop("projector.linear_2.bias")
    with pytest.raises(ValueError, match=r"differ in \['projector.linear_2.bias'\]"):
        trainables.load_state_dict(kept)
