"""Analytic FLOPs against PyTorch's counter and published figures; the measuring tools."""

import time

import pytest
import torch

from lib.decoding import StaticDecoder
from lib.pruning import available, create
from lib.pruning.tome import schedule
from lib.study.cost.efficiency import (
    Shape,
    Stopwatch,
    Timing,
    counted_flops,
    latency,
    layer_flops,
    machine,
    measure,
    prefill_flops,
    scorer_flops,
    vision_flops,
)
from tests.tiny import TOKENS, one, ragged, tiny_llava

LLAVA_7B = Shape(4096, 11008, 32, 32, 32, 32064, 1024, 4096, 24, 14, 336)


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


@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_the_vision_count_is_what_pytorch_counts(model, keep):
    plan = schedule(TOKENS, round(keep * TOKENS), 4)
    with torch.inference_mode(), create("tome", keep=keep)(model):
        total = counted_flops(lambda: model.model.get_image_features(one()["pixel_values"]))
    expected = vision_flops(Shape.of(model.config), merged=plan)
    assert total == pytest.approx(expected, rel=0.02)


def test_scorer_counts():
    def cost(name, **options):
        return scorer_flops(LLAVA_7B, create(name, **options).options())

    assert cost("random") == cost("tome") == cost("fastv", layer=0) == 0
    assert cost("fastv") == 2 * 576 * 4096
    one_gram = 2 * 576**2 * 1024
    assert cost("entropy", level="token", layers=(-2, -2)) == pytest.approx(
        one_gram + 9 * 576**3 + 48 * 576**2
    )
    assert cost("entropy") > cost("entropy", n_clusters=32, core_clusters=16)
    # the scorer is dwarfed by the language model it spares
    assert cost("entropy") < 0.02 * prefill_flops(LLAVA_7B, text=60, kept=576)


def test_formulas_are_named():
    with pytest.raises(ValueError, match="formula must be one of"):
        layer_flops(LLAVA_7B, 10, "paper")


def test_timing_is_the_median_with_quartiles():
    assert Timing.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Timing(3.0, 2.0, 4.0, 5)
    assert Timing.of([2.0, 1.0]).median == 1.5


def test_measure_discards_the_warm_up():
    calls = []

    def slow_at_first():
        calls.append(len(calls))
        time.sleep(0.2 if len(calls) <= 2 else 0.001)

    timing = measure(slow_at_first, device="cpu", warmup=2, repeats=3)
    assert len(calls) == 5 and timing.repeats == 3
    assert timing.high < 0.15


def test_stopwatch_adds_spans():
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with watch:
            time.sleep(0.002)
    assert len(watch.seconds()) == 2 and min(watch.seconds()) >= 0.002


@pytest.mark.parametrize("name", [None, *available()])
def test_latency_splits_a_caption_into_its_parts(name, operations_clock):
    model = tiny_llava()
    pruner = create(name) if name else None
    decoder = StaticDecoder(model)
    result = latency(model, ragged(), pruner, decoder=decoder, new_tokens=4, warmup=1, repeats=2)
    assert result["static_agreement"] == 1.0
    assert result["static_end_to_end"]["median"] > result["static_prefill"]["median"] > 0
    assert result["kept"] == (0.5 if name else 1.0)
    assert result["end_to_end"]["median"] > result["prefill"]["median"] > 0
    assert result["prefill"]["median"] > result["scorer"]["median"]
    assert result["prefill"]["median"] > result["vision"]["median"] > 0
    assert (result["scorer"]["median"] > 0) == (name is not None)
    assert result["peak_bytes"] is None and result["flops_counted"] > 0
    longest = ragged()["input_ids"].shape[1]
    if name is None:
        assert result["cache_bytes"] == 5 * 3 * longest * 2 * 2 * 8 * 4
    assert machine()["torch"]
    # nothing is left behind on the pruner
    assert pruner is None or "select" not in vars(pruner)
