"""What the catalogue's methods spend on choosing, against PyTorch's counter while they choose."""

import contextlib

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lib.pruning import available, create
from lib.study.cost.analytic import analytic
from lib.study.cost.flops import Shape
from lib.study.cost.scorer import scorer_flops
from lib.study.cost.scorers import EIGEN, SCORERS
from lib.study.cost.tower_scorers import TOWER_SCORERS
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
    "fastervlm": {},
    "hired": {},
    "vispruner": {},
    "scope": {"keep": 0.05},
    "rollout": {},
    "divprune": {},
    "cdpruner": {},
    "mmtok": {"keep": 0.05},
    "prumerge": {"keep": 0.25},
    "tokencorr": {"keep": 0.25},
    "pool": {"keep": 0.25},
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
    assert cost("llavolta") == 576 * 4096 and cost("grid") == cost("downsample") == 0
    # 54 dominant tokens and 10 contextual ones, each the sum of what resembles it by a head of 64
    project = 2 * 4096 * (1024 + 4096)
    merged = cost("visionzip", keep=64 / 576, class_token=False)
    assert merged == 2 * 576 * 1024 + 2 * 10 * 512 * (64 + 1024) + 10 * project
    assert cost("visionzip", keep=64 / 576) - merged == project
    one_shot = cost("weighted", form="one-shot", cover=0.0, entropy=1.0)
    assert one_shot - 9 * 576**3 == pytest.approx(2 * 576**2 * (4096 + 40), rel=0.01)


def test_every_scorer_is_a_small_part_of_the_prefill():
    config = read_config("shape:llava-1.5-7b")
    for name in (SCORERS | TOWER_SCORERS).keys() - {"rollout", "prumerge", "tokencorr"}:
        found = analytic(config, create(name).options(), 1.0, 60)
        assert 0 < found["scorer"] < 0.06 * found["exact"]


def test_every_method_is_counted_or_free():
    """What chooses without products, or inside the tower, is named here: nobody is forgotten."""
    free = {"random", "grid", "downsample", "tome", "ppt", "fastv", "entropy", "selection"}
    assert SCORERS.keys() | TOWER_SCORERS.keys() | free == set(available())
    assert not SCORERS.keys() & TOWER_SCORERS.keys()


def test_fewer_patches_spare_the_tower():
    config = read_config("shape:llava-1.5-7b")
    full = analytic(config, None, 1.0, 60)
    merged = [analytic(config, create(n, keep=1 / 9).options(), 1 / 9, 60) for n in ("ppt", "tome")]
    small = analytic(config, create("downsample", keep=1 / 9).options(), 1 / 9, 60)
    for found in (*merged, small):
        assert found["vision"] < 0.8 * full["vision"]
    # 8 x 8 patches in every block, so nearly a ninth
    assert 0.1 < small["encoder"] / full["encoder"] < 1 / 9


def test_stages_are_counted_one_by_one():
    config = read_config("shape:llava-1.5-7b")
    found = analytic(config, create("pyramiddrop").options(), 72 / 576, 60)
    full = analytic(config, None, 1.0, 60)
    # an average of 270 of 576 tokens, with 60 of text: (270 + 60) / 636 of the linear layers
    assert found["exact"] / full["exact"] == pytest.approx(330 / 636, abs=0.02)
