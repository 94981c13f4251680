"""Counts against published numbers and against a sum over the layers."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.geometry import average_tokens, feature_layer, kept_count, kept_for_average, patches
from tests.tiny import TOKENS, tiny_llava, tiny_llava_next


def test_the_patches_are_those_the_tower_sees():
    for model in (tiny_llava(), tiny_llava_next()):
        embeddings = model.model.vision_tower.embeddings
        assert patches(model.config) == TOKENS == embeddings.num_patches


@pytest.mark.parametrize("layer, expected", [(-1, 5), (-2, 4), (0, 0), (3, 3), ([-3, -2], 4)])
def test_the_feature_layer_counts_the_embeddings_as_0(layer, expected):
    vision = SimpleNamespace(num_hidden_layers=5)
    assert feature_layer(SimpleNamespace(vision_feature_layer=layer, vision_config=vision)) == (
        expected
    )


def test_the_feature_layer_is_the_one_the_projector_reads():
    import torch

    model = tiny_llava()
    read = []
    model.model.multi_modal_projector.register_forward_pre_hook(lambda _, args: read.append(args))
    pixels = torch.rand(1, 3, 42, 42)
    with torch.inference_mode():
        model.model.get_image_features(pixels)
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    assert torch.equal(read[0][0], states[feature_layer(model.config)][:, 1:])


@pytest.mark.parametrize(
    "keep, tokens, kept",
    [(0.5, 576, 288), (0.5, 575, 288), (0.25, 6, 2), (0.001, 100, 1), (1, 7, 7), (0.49, 1, 1)],
)
def test_kept_counts_round_half_up(keep, tokens, kept):
    assert kept_count(keep, tokens) == kept


@pytest.mark.parametrize("keep, tokens", [(0, 5), (1.1, 5), (float("nan"), 5), (0.5, 0)])
def test_kept_counts_of_nothing_are_refused(keep, tokens):
    with pytest.raises(ValueError, match="must be"):
        kept_count(keep, tokens)


@pytest.mark.parametrize(
    "average, layer, kept",
    [(192, 2, 166), (128, 2, 98), (64, 2, 29), (192, 3, 152), (128, 3, 81), (64, 3, 11)],
)
def test_equal_averages_as_published_for_576_tokens_and_32_layers(average, layer, kept):
    assert kept_for_average(average, tokens=576, layer=layer, layers=32) == kept


@given(st.data())
def test_the_average_is_that_over_the_layers_and_its_inverse_leads_back(data):
    layers = data.draw(st.integers(1, 64))
    layer = data.draw(st.integers(0, layers - 1))
    tokens = data.draw(st.integers(1, 3000))
    kept = data.draw(st.integers(1, tokens))
    seen = [tokens if index < layer else kept for index in range(layers)]
    average = average_tokens(kept, tokens=tokens, layer=layer, layers=layers)
    assert average == pytest.approx(sum(seen) / layers)
    assert kept_for_average(average, tokens=tokens, layer=layer, layers=layers) == kept


def test_impossible_averages_say_why():
    with pytest.raises(ValueError, match=r"16 of 32 layers see all 576.*even one token.*288\.5"):
        kept_for_average(128, tokens=576, layer=16, layers=32)
    with pytest.raises(ValueError, match="at most the 576 tokens"):
        kept_for_average(577, tokens=576, layer=2, layers=32)
    with pytest.raises(ValueError, match=r"layer must be in 0\.\.31"):
        average_tokens(5, tokens=576, layer=32, layers=32)
    with pytest.raises(ValueError, match=r"kept must be in 0\.\.576"):
        average_tokens(600, tokens=576, layer=2, layers=32)
