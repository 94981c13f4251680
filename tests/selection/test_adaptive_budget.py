"""Budgets by effective rank: proportions, bounds, and the calibration of their average."""

import pytest
import torch

from lib.selection import rank_budgets, typical_rank
from lib.selection.adaptive_budget import most_tokens


def ranks(count=200):
    return torch.randn(count, generator=torch.Generator().manual_seed(0)).double().exp() * 12


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("k", [4, 32, 128])
def test_calibrated_budgets_average_to_the_wanted_one(power, k):
    typical = typical_rank(ranks(), k, 256, power=power)
    budgets = rank_budgets(ranks(), k, typical, 256, power=power)
    assert abs(budgets.double().mean() - k) < 0.5 / len(ranks()) + 0.02 * k
    assert budgets.min() >= 1 and budgets.max() <= min(256, 2 * k)


def test_budgets_by_definition():
    for rank, want in ((10.0, 16), (5.0, 8), (14.99, 24), (1e-9, 1), (1e9, 40)):
        assert rank_budgets(torch.tensor([rank]), 16, 10.0, 40, bound=9.0).tolist() == [want]
    for rank, power, want in ((90.0, 0.5, 48), (2.5, 0.5, 8), (20.0, 3.0, 128), (20.0, 2.0, 64)):
        budget = rank_budgets(torch.tensor([rank]), 16, 10.0, 256, power=power, bound=9.0)
        assert budget.tolist() == [want]
    assert rank_budgets(torch.tensor([90.0]), 16, 10.0, 256, power=0.5).tolist() == [32]


@pytest.mark.parametrize("k", [1, 2, 7, 40])
@pytest.mark.parametrize("bound", [1, 1.01, 1.5, 2.0, 30.0])
def test_the_largest_budget_is_the_bound_rounded_up_within_what_an_image_has(k, bound):
    want = min(n for n in range(1, 2000) if n >= bound * k - 1e-6)
    assert most_tokens(k, 40, bound) == min(40, want)
    assert rank_budgets(torch.tensor([1e9]), k, 1.0, 40, bound=bound).tolist() == [min(40, want)]


def test_a_typical_image_gets_the_wanted_budget_by_default_in_proportion_to_its_rank():
    alike = torch.full((5,), 7.0)
    assert typical_rank(alike, 20, 256) == pytest.approx(7.0, rel=0.03)
    assert typical_rank(ranks(), 20, 256) == typical_rank(ranks(), 20, 256, power=1.0, bound=2.0)
    assert rank_budgets(torch.tensor([3.5, 7.0]), 20, 7.0, 256).tolist() == [10, 20]


def test_more_rank_never_means_fewer_tokens():
    found = rank_budgets(ranks().sort().values, 20, 12.0, 256)
    assert bool((found[1:] >= found[:-1]).all())


@pytest.mark.parametrize("call, message", [
    (lambda: rank_budgets(ranks(), 8, 0.0, 64), "typical and power must be positive"),
    (lambda: rank_budgets(ranks(), 8, 1.0, 64, power=0.0), "typical and power must be positive"),
    (lambda: most_tokens(8, 64, 0.9), "bound must be at least 1"),
    (lambda: most_tokens(65, 64, 2.0), "k must be between 1 and 64"),
])  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
