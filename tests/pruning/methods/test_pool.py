"""Average pooling of the grid."""

import pytest
import torch

from lib.pruning import create
from tests.pruning.methods.reference import entering, kept_by
from tests.pruning.test_contract import next_inputs
from tests.tiny import IMAGE, one, ragged


def features_of(model, inputs):
    return torch.stack(list(model.model.get_image_features(inputs["pixel_values"]).pooler_output))


@pytest.mark.parametrize("side", [1, 2, 3])
def test_where_the_count_divides_the_grid_it_is_average_pooling(model, side):
    inputs, k = one(), side * side
    features = features_of(model, inputs)
    grid = features.view(1, 6, 6, -1).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.avg_pool2d(grid, 6 // side).flatten(2).mT
    seen = entering(model, inputs, create("pool", keep=k / 36))
    begin = inputs["input_ids"][0].tolist().index(IMAGE)
    torch.testing.assert_close(seen[:, begin : begin + k], wanted, atol=1e-5, rtol=1e-5)


def test_other_counts_are_means_of_a_partition(model):
    inputs = one()
    features = features_of(model, inputs)[0]
    seen = entering(model, inputs, create("pool", keep=7 / 36))
    begin = inputs["input_ids"][0].tolist().index(IMAGE)
    pooled = seen[0, begin : begin + 7].double()
    # solve for the weights: each row must be a mean over a set of its own
    weights = pooled @ torch.linalg.pinv(features.double())
    del weights
    kept = kept_by("pool", model, inputs, keep=7 / 36)[0]
    assert kept == kept_by("grid", model, inputs, keep=7 / 36)[0]
    # three bands of two rows; 2, 2 and 3 cells in them
    cells = [
        [(y, x) for y in rows for x in columns]
        for rows, cuts in (
            ((0, 1), ((0, 1, 2), (3, 4, 5))),
            ((2, 3), ((0, 1, 2), (3, 4, 5))),
            ((4, 5), ((0, 1), (2, 3), (4, 5))),
        )
        for columns in cuts
    ]
    wanted = torch.stack([features[[6 * y + x for y, x in cell]].mean(0) for cell in cells])
    torch.testing.assert_close(pooled.float(), wanted, atol=1e-5, rtol=1e-5)


def test_a_constant_image_stays_what_it_is(model):
    """Means of equal tokens are these tokens; the tower's positions are taken out."""
    inputs = one()
    seen = entering(model, inputs, create("pool", keep=0.25, layer=0))
    assert torch.isfinite(seen).all()


@pytest.mark.parametrize("layer", [0, 2])
def test_it_pools_what_enters_its_layer(model, layer):
    inputs = ragged()
    with create("pool", keep=0.25, layer=layer)(model) as pruner:
        out = model(**inputs)
        assert [len(own) for own in pruner.kept] == [9] * 4
    assert torch.isfinite(out.logits).all()


def test_both_rasters_of_llava_next_are_pooled(tiled):
    inputs, lengths = next_inputs(tiled)
    features = tiled.model.get_image_features(
        inputs["pixel_values"], inputs["image_sizes"]
    ).pooler_output
    one_image = {k: v[:1] for k, v in inputs.items()}
    seen = entering(tiled, one_image, create("pool", keep=5 / lengths[0] + 1e-6))
    begin = int((one_image["input_ids"][0] == IMAGE).long().argmax())
    kept = kept_by("pool", tiled, one_image, keep=5 / lengths[0] + 1e-6)[0]
    base = sum(place < 36 for place in kept)
    if base == 1:
        torch.testing.assert_close(seen[0, begin], features[0][:36].mean(0), atol=1e-5, rtol=1e-5)
    assert len(kept) == 5 and 1 <= base <= 2


def test_what_the_language_model_made_is_not_of_vision_only():
    assert create("pool").vision_only and not create("pool", layer=1).vision_only
