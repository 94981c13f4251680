"""DivPrune: max-min diversity of the projected tokens."""

import pytest
import torch

from lib.pruning import create
from tests.pruning.methods.reference import kept_by
from tests.pruning.test_contract import next_inputs
from tests.selection.test_picks import cosines, farthest
from tests.tiny import TOKENS, one, ragged


def projected(model, inputs):
    return model.model.get_image_features(inputs["pixel_values"]).pooler_output


@pytest.mark.parametrize("keep", [0.05, 0.25, 0.6])
def test_follows_its_definition(model, keep):
    inputs = ragged()
    budget = create("divprune", keep=keep).budget(TOKENS)
    wanted = [sorted(farthest(cosines(own), budget)) for own in projected(model, inputs)]
    assert kept_by("divprune", model, inputs, keep=keep) == wanted


def test_the_order_of_the_picks_is_an_option(model):
    inputs = one()
    features = projected(model, inputs)[0]
    picks = farthest(cosines(features), 9)
    seen = {}

    def look(module, args, kwargs):
        seen["x"] = args[0] if args else kwargs["hidden_states"]

    with create("divprune", keep=0.25, order="picked")(model):
        layer = model.model.language_model.layers[0]
        handle = layer.register_forward_pre_hook(look, with_kwargs=True)
        model(**inputs)
        handle.remove()
    begin = 5  # a start token and four words
    torch.testing.assert_close(seen["x"][0, begin : begin + 9], features[picks])
    with pytest.raises(ValueError, match="changes the order"):
        create("divprune", order="picked", mode="mask")


def test_newlines_of_llava_next_compete(tiled):
    inputs, lengths = next_inputs(tiled)
    features = tiled.model.get_image_features(
        inputs["pixel_values"], inputs["image_sizes"]
    ).pooler_output
    wanted = [
        sorted(farthest(cosines(own), create("divprune", keep=0.2).budget(length)))
        for own, length in zip(features, lengths)
    ]
    assert kept_by("divprune", tiled, inputs, keep=0.2) == wanted


def test_it_depends_on_the_image_alone_only_before_the_language_model():
    assert create("divprune").vision_only and not create("divprune", layer=2).vision_only
