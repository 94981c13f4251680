"""FasterVLM: the patches that the class token attends to most."""

import pytest
import torch

from lib.pruning import create
from tests.pruning.methods.reference import Tower, kept_by, tiny_siglip, top
from tests.pruning.test_contract import next_inputs
from tests.tiny import TOKENS, one, ragged


@pytest.mark.parametrize("keep", [0.1, 0.25, 0.6])
def test_keeps_the_largest_class_attention_of_the_feature_block(model, keep):
    inputs = ragged()
    weights = Tower(model, inputs["pixel_values"]).class_attention()
    budget = create("fastervlm", keep=keep).budget(TOKENS)
    assert kept_by("fastervlm", model, inputs, keep=keep) == [top(w, budget) for w in weights]


def test_without_a_class_token_the_mean_attention_received_ranks():
    model, inputs = tiny_siglip(), one()
    tower = Tower(model, inputs["pixel_values"])
    received = tower.attention(tower.last - 1).mean(1).mean(1)
    assert kept_by("fastervlm", model, inputs, keep=0.25) == [top(received[0], 9)]


def test_each_tile_has_an_even_share_and_no_newline_stays(tiled):
    """Three tiles of 36 patches; what unpadding takes away is the second tile's edge."""
    inputs, lengths = next_inputs(tiled)
    with create("fastervlm", keep=0.25)(tiled) as pruner:
        tiled(**inputs)
        kept = pruner.kept
        from lib.pruning.engine.tower import layouts_of
        from lib.pruning.engine.vision import record_of

        features = tiled.model.get_image_features(inputs["pixel_values"], inputs["image_sizes"])
        layouts = layouts_of(pruner.family, record_of(features))
    for own, layout, length in zip(kept, layouts, lengths):
        tiles = layout.tiles[own]
        assert (tiles >= 0).all() and len(own) == round(0.25 * length + 0.01)
        counts = torch.bincount(tiles - tiles.min()).tolist()
        assert max(counts) - min(counts) <= 1 and counts == sorted(counts, reverse=True)


def test_a_wide_share_keeps_every_patch_and_then_newlines(tiled):
    inputs, lengths = next_inputs(tiled)
    with create("fastervlm", keep=0.99)(tiled) as pruner:
        tiled(**inputs)
        for own, length in zip(pruner.kept, lengths):
            assert len(own) == pruner.budget(length) < length


def test_ranks_on_a_second_stream_give_the_same(model):
    """What a captured prefill computes ahead is what is computed else."""
    inputs = ragged()
    plain = kept_by("fastervlm", model, inputs)
    with create("fastervlm")(model) as pruner:
        features = model.model.get_image_features(inputs["pixel_values"])
        from lib.pruning.engine.vision import record_of

        ahead = pruner._ahead(record_of(features))
    assert [mask.nonzero().squeeze(1).tolist() for mask in ahead] == plain
