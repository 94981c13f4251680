"""Hidden states and pictures against the model's own."""

import pytest
import torch
from PIL import Image

from lib.study import models
from lib.study.inspection import states
from tests import tiny


def test_language_states_are_the_models_own():
    model, inputs = tiny.tiny_llava(), tiny.one()
    spots = (inputs["input_ids"][0] == model.config.image_token_id).nonzero().squeeze(1)
    with torch.inference_mode():
        expected = model(**inputs, output_hidden_states=True).hidden_states
    found = states.language_states(model, inputs)
    assert len(found) == model.config.text_config.num_hidden_layers
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs[0, spots])


def test_the_picture_is_what_the_model_sees():
    tokenizer = models.train_tokenizer(["a red circle"] * 20, vocab_size=300)
    processor = models.build_processor(tokenizer, image_size=42, patch_size=7)
    flat = Image.new("RGB", (42, 42), (200, 100, 50))
    pixels = processor.image_processor(flat, return_tensors="pt")
    assert (states.seen(processor, pixels) == [200, 100, 50]).all()


def test_models_whose_tokens_do_not_line_up_are_refused():
    config = tiny.tiny_llava(strategy="full").config
    with pytest.raises(TypeError, match="vision_feature_select_strategy='default'"):
        states.default_layers(config)
    assert list(states.default_layers(tiny.tiny_llava().config)) == [1, 2, 3, 4]


def test_unit_gram_normalises_and_keeps_zero():
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    found = states.unit_gram(vectors @ vectors.T)
    expected = torch.tensor([[1.0, 0.0, 0.6], [0.0, 0.0, 0.0], [0.6, 0.0, 1.0]])
    torch.testing.assert_close(found, expected)
