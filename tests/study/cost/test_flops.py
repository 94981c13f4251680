"""Analytic FLOPs against PyTorch's counter and published figures."""

import pytest
import torch

from lib.pruning import create
from lib.pruning.tome import schedule
from lib.study.cost.flops import (
    Shape,
    attention_flops,
    counted_flops,
    encoder_macs,
    layer_flops,
    prefill_flops,
    vision_flops,
)
from tests.tiny import TOKENS, one, tiny_llava

LLAVA_7B = Shape(4096, 11008, 32, 32, 32, 32064, 1024, 4096, 24, 14, 576)


@pytest.fixture(scope="module")
def model():
    return tiny_llava(attention="eager")  # the counter sees eager attention as two products


def test_the_shape_is_read_from_a_configuration(model):
    shape = Shape.of(model.config)
    assert shape.visual_tokens == TOKENS and shape.layers == 5 and shape.kv_heads == 2


@pytest.mark.parametrize("formula, tera", [("fastv", 2.99), ("sparsevlm", 3.82), ("exact", 7.63)])
def test_published_counts_of_llava_7b_at_576_tokens(formula, tera):
    total = 32 * layer_flops(LLAVA_7B, 576, formula)
    assert total / 1e12 == pytest.approx(tera, abs=0.01)


@pytest.mark.parametrize("formula", ["fastv", "sparsevlm", "exact"])
def test_the_ratio_of_fastv_hardly_depends_on_the_formula(formula):
    def ratio(text):
        pruned = prefill_flops(LLAVA_7B, text=text, kept=288, layer=2, formula=formula)
        full = prefill_flops(LLAVA_7B, text=text, kept=576, formula=formula)
        return pruned / full

    assert 0.523 < ratio(0) < 0.527
    assert ratio(64) == pytest.approx(0.571, abs=0.003)


@pytest.mark.parametrize("layer, kept", [(0, TOKENS), (0, 18), (2, 18), (4, 5)])
def test_the_exact_prefill_count_is_what_pytorch_counts(model, layer, kept):
    inputs = one()
    text = inputs["input_ids"].shape[1] - TOKENS
    with torch.inference_mode(), create("random", keep=kept / TOKENS, layer=layer)(model):
        features = model.model.get_image_features
        vision = counted_flops(lambda: features(inputs["pixel_values"]))
        total = counted_flops(lambda: model(**inputs, logits_to_keep=1))
    expected = prefill_flops(Shape.of(model.config), text=text, kept=kept, layer=layer)
    assert total - vision == pytest.approx(expected, rel=1e-3)


def test_fused_attention_is_counted_as_its_products_are(model):
    fused = tiny_llava(attention="sdpa")
    with torch.inference_mode():
        found, expected = (counted_flops(lambda m=m: m(**one())) for m in (fused, model))
    assert found == expected


@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_the_vision_count_is_what_pytorch_counts(model, keep):
    plan = schedule(TOKENS, round(keep * TOKENS), 4)
    with torch.inference_mode(), create("tome", keep=keep)(model):
        total = counted_flops(lambda: model.model.get_image_features(one()["pixel_values"]))
    expected = vision_flops(Shape.of(model.config), merged=plan)
    assert total == pytest.approx(expected, rel=0.02)


def test_formulas_are_named():
    with pytest.raises(ValueError, match="formula must be one of"):
        layer_flops(LLAVA_7B, 10, "paper")


@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_the_encoders_multiply_adds_are_the_towers_operations_halved(model, keep):
    plan = schedule(TOKENS, round(keep * TOKENS), 4)
    with torch.inference_mode(), create("tome", keep=keep)(model):
        total = counted_flops(lambda: model.model.get_image_features(one()["pixel_values"]))
    kept = torch.zeros(1, round(keep * TOKENS), 32)
    total -= counted_flops(lambda: model.model.multi_modal_projector(kept))
    assert encoder_macs(Shape.of(model.config), merged=plan) == pytest.approx(total / 2, rel=0.02)


def test_the_encoder_of_a_vit_l_16_has_its_published_multiply_adds():
    """ViT-L/16 at 224 pixels: 59.7 to 61.6 G in the literature, by what is counted beside."""
    shape = Shape(1, 1, 1, 1, 1, 1, 1024, 4096, 24, 16, 196)
    assert encoder_macs(shape) / 1e9 == pytest.approx(61.6, abs=0.1)


def test_fused_attention_counts_as_the_counter_does():
    from torch.utils.flop_counter import sdpa_flop_count

    q, kv = (2, 8, 5, 16), (2, 8, 7, 16)
    assert attention_flops(q, kv, kv) == sdpa_flop_count(q, kv, kv)
    # eight heads of queries on two of keys do the work of eight on eight
    assert attention_flops(q, (2, 2, 7, 16), (2, 2, 7, 16)) == sdpa_flop_count(q, kv, kv)
