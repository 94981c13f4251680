"""PyramidDrop against a prefill written out: the next layer's attention, stage by stage."""

import pytest
import torch

from lib.pruning import create
from tests.pruning.methods.loop import agrees, largest
from tests.tiny import TOKENS, ragged, tiny_llava


@pytest.fixture(scope="module")
def model():
    return tiny_llava()


def reference(counts):
    def choose(moment):
        weights = moment.attention_ahead().double().mean(0)[-1]
        keep = largest(weights[moment.columns].log(), counts[moment.stage])
        return [moment.columns[i] for i in keep], None

    return choose


@pytest.mark.parametrize("positions", ["contiguous", "original"])
@pytest.mark.parametrize("keep", [0.125, 0.4])
def test_it_is_the_written_out_method(model, positions, keep):
    pruner = create("pyramiddrop", keep=keep, positions=positions)
    with pruner(model):
        counts = pruner.plan(TOKENS)
    agrees(model, pruner, reference(counts), ragged())


def test_the_published_schedule():
    pruner = create("pyramiddrop")
    counts = pruner.layer_counts(576, 32)
    assert [counts[i] for i in (0, 7, 8, 15, 16, 23, 24, 31)] == [
        576,
        576,
        288,
        288,
        144,
        144,
        72,
        72,
    ]
    assert sum(counts) / 32 == 270


def test_another_choice_of_stages(model):
    pruner = create("pyramiddrop", places=(2, 3), ratios=(0.5, 0.25), keep=0.25)
    with torch.inference_mode(), pruner(model):
        model(**ragged())
    assert [layer for layer, _ in pruner.kept_stages] == [2, 3]
    assert [int(masks[0].sum()) for _, masks in pruner.kept_stages] == [18, 9]


def test_earlier_turns_take_part_of_the_attention(model):
    """The keys a later image competes with lie in the cache; scoring it alone would differ."""
    seen = {}

    class Watched(type(create("pyramiddrop"))):
        def score(self, images):
            found = super().score(images)
            seen.setdefault(images.stage, []).append(found)
            return found

    inputs = {k: v[:1, :] if v.ndim == 2 else v[:1] for k, v in ragged(seed=3).items()}
    real = inputs["attention_mask"][0] > 0
    ids = inputs["input_ids"][:, real]
    words = torch.tensor([[1, 17, 23, 31, 44]])
    whole = torch.cat([words, ids], 1)
    with torch.inference_mode(), Watched()(model):
        cache = model(input_ids=words, use_cache=True).past_key_values
        model(input_ids=ids, pixel_values=inputs["pixel_values"], past_key_values=cache)
        model(input_ids=whole, pixel_values=inputs["pixel_values"])
    for later, once in seen.values():
        torch.testing.assert_close(later, once, atol=1e-5, rtol=1e-4)
