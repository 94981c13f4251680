"""What the catalogue's methods spend on choosing, against PyTorch's counter while they choose."""

import contextlib

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lib.pruning import create
from lib.study.cost.analytic import analytic
from lib.study.cost.flops import Shape
from lib.study.cost.scorer import scorer_flops
from lib.study.cost.scorers import EIGEN, SCORERS
from lib.study.models import read_config
from tests.tiny import batch, prompt, tiny_llava

#: what PyTorch counts (products of matrices alone) is within this factor of the formula
FACTOR = 1.6
CASES = {
    "pyramiddrop": {},
    "sparsevlm": {"recycle": False},
    "sparsevlm 2": {"version": "2"},
    "priortr": {},
    "dart": {},
    "weighted": {"keep": 0.25},
    "weighted entropy": {"keep": 0.25, "cover": 0.0, "entropy": 1.0},
    "weighted text": {"keep": 0.25, "query": "text", "attention": "mean"},
}


def counted(model, pruner, inputs):
    """Operations inside of what the pruner calls its scorer, by PyTorch's counter."""
    total, depth = [0], [0]
    for name in pruner.scorer:
        original = getattr(pruner, name)

        def watched(*args, original=original, **kwargs):
            depth[0] += 1
            inner = FlopCounterMode(display=False) if depth[0] == 1 else contextlib.nullcontext()
            with inner:
                found = original(*args, **kwargs)
            depth[0] -= 1
            if depth[0] == 0:
                total[0] += inner.get_total_flops()
            return found

        setattr(pruner, name, watched)
    with torch.inference_mode(), pruner(model):
        model(**inputs)
    return total[0]


@pytest.mark.parametrize("case", CASES)
def test_the_formula_is_what_pytorch_counts(case):
    model, inputs = tiny_llava(), batch([prompt(before=1, after=24)], 1)
    pruner = create(case.split()[0], **CASES[case])
    formula = scorer_flops(Shape.of(model.config), pruner.options(), text=26)
    found = counted(model, pruner, inputs)
    assert formula / FACTOR < found < formula * FACTOR


def test_what_pytorch_does_not_count_is_counted_by_hand():
    shape = Shape(4096, 11008, 32, 32, 32, 32064, 1024, 4096, 24, 14, 576)

    def cost(name, text=60, **options):
        return scorer_flops(shape, create(name, **options).options(), text)

    assert cost("v2drop") == 3 * 4096 * (576 + 288 + 144)
    assert cost("topv") == 576**2 * (2 * 4096 + 3 * 7)
    assert cost("head-entropy") == 576 * (2 * 32 * 4096 + EIGEN * 32**3)
    plain, recycled = cost("sparsevlm", recycle=False), cost("sparsevlm")
    assert 0 < recycled - plain < 0.02 * plain + 3 * 83**2 * 4096 * 2
    one_shot = cost("weighted", form="one-shot", cover=0.0, entropy=1.0)
    assert one_shot - 9 * 576**3 == pytest.approx(2 * 576**2 * (4096 + 40), rel=0.01)


def test_every_scorer_is_a_small_part_of_the_prefill():
    config = read_config("shape:llava-1.5-7b")
    for name in SCORERS:
        found = analytic(config, create(name).options(), 1.0, 60)
        assert 0 < found["scorer"] < 0.06 * found["exact"]


def test_stages_are_counted_one_by_one():
    config = read_config("shape:llava-1.5-7b")
    found = analytic(config, create("pyramiddrop").options(), 72 / 576, 60)
    full = analytic(config, None, 1.0, 60)
    # an average of 270 of 576 tokens, with 60 of text: (270 + 60) / 636 of the linear layers
    assert found["exact"] / full["exact"] == pytest.approx(330 / 636, abs=0.02)
