"""LLaVolta's pooling of the sequence."""

import pytest
import torch

from lib.pruning import create
from lib.pruning.llavolta import runs
from tests.pruning.methods.reference import entering, kept_by
from tests.tiny import IMAGE, TOKENS, one, ragged


@pytest.mark.parametrize("stride", [2, 3, 4, 6])
def test_a_stride_that_divides_is_average_pooling_of_the_sequence(model, stride):
    inputs, k = one(), TOKENS // stride
    features = model.model.get_image_features(inputs["pixel_values"]).pooler_output[0]
    wanted = torch.nn.functional.avg_pool1d(features.T[None], stride)[0].T
    seen = entering(model, inputs, create("llavolta", keep=1 / stride, layer=0))
    begin = inputs["input_ids"][0].tolist().index(IMAGE)
    torch.testing.assert_close(seen[0, begin : begin + k], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 6, 8])
def test_positions_are_the_means_rounded_down(stride):
    """Of ids p, p + 1, ...: the published pooling of positions, truncated."""
    middles, _ = runs(576, 576 // stride, torch.device("cpu"))
    p = 35
    ids = torch.arange(p, p + 576, dtype=torch.float64)
    wanted = torch.nn.functional.avg_pool1d(ids[None], stride)[0].long()
    assert torch.equal(middles + p, wanted)
    assert torch.equal(wanted, p + stride * torch.arange(576 // stride) + (stride - 1) // 2)


def test_positions_reach_the_layers(model):
    seen = {}
    inputs = one()
    with create("llavolta", keep=0.25, layer=1)(model) as pruner:
        model.model.language_model.layers[3].register_forward_pre_hook(
            lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
        )
        model(**inputs)
        kept = pruner.kept[0]
    assert kept.tolist() == [4 * i + 1 for i in range(9)]
    begin = inputs["input_ids"][0].tolist().index(IMAGE)
    ids = seen["position_ids"][0]
    assert ids[begin : begin + 9].tolist() == (kept + begin).tolist()


@pytest.mark.parametrize("k", [1, 5, 7, 11, 25, 36])
def test_other_counts_differ_by_one_token_a_run(k):
    middles, weights = runs(TOKENS, k, torch.device("cpu"))
    size = (weights > 0).sum(1)
    assert size.max() - size.min() <= 1 and size.sum() == TOKENS
    assert ((weights > 0).sum(0) == 1).all() and weights[torch.arange(k), middles].gt(0).all()
    assert torch.equal(middles, middles.unique())


def test_the_default_is_layer_2_and_counts_are_exact(model):
    assert create("llavolta").layer == 2 and not create("llavolta").vision_only
    assert create("llavolta", layer=0).vision_only
    assert [len(own) for own in kept_by("llavolta", model, ragged(), keep=0.3)] == [11] * 4
