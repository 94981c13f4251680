"""The divergence that notebook 06 builds in five lines is the one the study measures."""

import pytest
import torch

from lib.pruning import create
from lib.pruning.engine.release import cache_name, cache_of
from lib.study.divergence import divergence
from lib.study.profiles import load_profile
from lib.study.reports.one_caption import one_caption


@pytest.mark.parametrize("name", ["fastv", "entropy"])
def test_five_lines_give_what_the_study_measures(root, name):
    model, processor, inputs, caption, example = one_caption("tiny")

    def predictions():
        first = model(**inputs, use_cache=True)
        rest = model(input_ids=caption[:, :-1], **{cache_name(model): cache_of(first)})
        return torch.cat([first.logits[:, -1:], rest.logits], dim=1).float().log_softmax(-1)

    with torch.inference_mode():
        whole = predictions()
        with create(name, keep=0.25)(model):
            pruned = predictions()
    nats = (whole.exp() * (whole - pruned)).sum(-1).mean().item()
    how = {"prompt": load_profile("tiny").prompt, "references": 1, "progress": False}
    (one,) = divergence(model, processor, [example], {"x": create(name, keep=0.25)}, **how)["x"]
    assert nats == pytest.approx(one["kl"], rel=1e-3) and nats > 1e-5
    assert one["tokens"] == caption.shape[1]
