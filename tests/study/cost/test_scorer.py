"""What choosing costs, against counts by hand and PyTorch's counter."""

import pytest
import torch

from lib.entropy import gram
from lib.pruning import create
from lib.selection import STRATEGIES, adaptive, greedy
from lib.study.cost.flops import Shape, counted_flops, prefill_flops
from lib.study.cost.scorer import ADAPTIVE_NODES, NODES, scorer_flops
from lib.study.models import read_config

LLAVA_7B = Shape(4096, 11008, 32, 32, 32, 32064, 1024, 4096, 24, 14, 576)


def cost(name, shape=LLAVA_7B, **options):
    return scorer_flops(shape, create(name, **options).options())


def test_scorer_counts():
    assert cost("random") == cost("tome") == cost("fastv", layer=0) == 0
    assert cost("fastv") == 2 * 576 * 4096
    one_gram = 2 * 576**2 * 1024
    assert cost("entropy", level="token", layers=(-2, -2)) == pytest.approx(
        one_gram + 9 * 576**3 + 48 * 576**2
    )
    assert cost("entropy") > cost("entropy", n_clusters=32, core_clusters=16)
    # the scorer is dwarfed by the language model it spares
    assert cost("entropy") < 0.02 * prefill_flops(LLAVA_7B, text=60, kept=576)


def test_our_rule_counts_every_node_and_the_coverage():
    """The embedded model at half the tokens: 33.6 M for the Gram matrix, 33.6 M for the Cholesky
    factors of eight nodes, 25.2 M for the coverage."""
    shape = Shape.of(read_config("embedded"))
    assert cost("selection", shape) == 2 * 256**3 + 8 * 256 * 128**2 + 3 * 128 * 256**2
    assert cost("selection", shape) / 1e6 == pytest.approx(92, abs=0.5)
    bare = cost("selection", shape, cover=0.0)
    assert cost("selection", shape) - bare == 3 * 128 * 256**2


@pytest.mark.parametrize("nodes", [ADAPTIVE_NODES, NODES])
def test_the_factors_of_a_greedy_rule_are_what_pytorch_counts(nodes):
    size, keep = 64, 32
    matrix = gram(torch.randn(size, 16, generator=torch.Generator().manual_seed(0)))
    rule = adaptive if nodes == ADAPTIVE_NODES else greedy
    counted = counted_flops(lambda: rule(matrix, keep, gram=True, nodes=nodes))
    # step by step 0, 1, ..., keep - 1 earlier picks; the formula takes keep / 2 for each
    assert counted == nodes * size * keep * (keep - 1)
    assert nodes * size * keep**2 == pytest.approx(counted, rel=1.1 / keep)


def test_the_nodes_are_those_that_the_rules_use():
    import inspect

    assert inspect.signature(adaptive).parameters["nodes"].default == ADAPTIVE_NODES


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_every_strategy_has_a_count(strategy):
    found = cost("selection", strategy=strategy)
    assert (found > 0) == (strategy != "random")


def test_language_layers_that_do_not_exist_are_not_counted():
    one, three, four = (cost("entropy", source="language", layer=k) for k in (0, 2, 8))
    assert one < three < four
    gram_of_one = 2 * 576**2 * 4096
    assert four - three > gram_of_one
