"""FLOPs of a method by every formula."""

import pytest

from lib.pruning import create
from lib.pruning.tome import schedule
from lib.study.cost.analytic import analytic
from lib.study.cost.flops import FORMULAS, Shape, encoder_macs, prefill_flops, vision_flops
from lib.study.models import read_config


@pytest.fixture(scope="module")
def config():
    return read_config("shape:llava-1.5-7b")


def test_every_formula_counts_the_tokens_that_are_left(config):
    shape = Shape.of(config)
    full, half = (
        analytic(config, None, 1.0, 12),
        analytic(config, create("random").options(), 0.5, 12),
    )
    for formula in FORMULAS:
        assert full[formula] == prefill_flops(shape, text=12, kept=576, formula=formula)
        assert half[formula] == prefill_flops(shape, text=12, kept=288, formula=formula)
    assert full["vision"] == half["vision"] == vision_flops(shape)
    assert full["encoder"] == half["encoder"] == encoder_macs(shape) and full["scorer"] == 0
    deep = analytic(config, create("fastv").options(), 0.5, 12)
    assert deep["exact"] == prefill_flops(shape, text=12, kept=288, layer=2)
    assert deep["exact"] > half["exact"]
    hidden = analytic(config, create("fastv", mode="mask").options(), 0.5, 12)
    assert hidden["exact"] == full["exact"], "a hidden token is computed all the same"


def test_tome_spares_the_tower_work(config):
    options = create("tome", keep=0.25).options()
    found, shape = analytic(config, options, 0.25, 12), Shape.of(config)
    plan = schedule(576, 144, 23)
    assert found["vision"] == vision_flops(shape, merged=plan) < vision_flops(shape)
    assert found["encoder"] == encoder_macs(shape, merged=plan) < encoder_macs(shape)
