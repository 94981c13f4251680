"""Order with near-ties, top-k, the greedy pick, coverage."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lib.entropy import gram
from lib.selection import coverage, top_k
from lib.selection.ranking import best, order_of, quantise, rank_of, top_mask
from tests import reference
from tests.reference import make_tokens

F64 = torch.float64


def test_top_k_sorts_by_position_and_breaks_ties_by_index():
    scores = torch.tensor([[0.3, 0.1, 0.3, 0.3, 0.2], [5.0, 4.0, 3.0, 2.0, 1.0]])
    assert top_k(scores, 2).tolist() == [[0, 2], [0, 1]]
    assert top_k(scores, 4).tolist() == [[0, 2, 3, 4], [0, 1, 2, 3]]
    assert top_k(scores, 5).tolist() == [[0, 1, 2, 3, 4]] * 2


def test_top_k_ignores_rounding_but_not_differences():
    scores = torch.linspace(0, 1, 50, dtype=F64)
    scores[10:15] = scores[12]
    noise = 1e-9 * torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=F64)
    for k in range(1, 51):
        assert torch.equal(top_k(scores, k), top_k(scores + noise, k))
    assert top_k(torch.full((6,), 0.7) + 1e-9 * torch.rand(6), 3).tolist() == [0, 1, 2]


def test_top_k_tells_apart_what_only_float64_does():
    scores = 1 + 1e-8 * torch.tensor([0.0, 3.0, 1.0, 2.0], dtype=torch.float64)
    assert top_k(scores, 2).tolist() == [1, 3]
    assert top_k(scores.float(), 2).tolist() == [0, 1]  # equal ones, the first of them


@pytest.mark.parametrize("k", [1, 3, 7])
def test_the_mask_of_the_largest_is_that_of_their_indices(k):
    scores = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    mask = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, top_k(scores, k), True)
    assert torch.equal(top_mask(scores, k), mask)
    with pytest.raises(ValueError, match="NaN"):
        top_mask(scores.masked_fill(mask, torch.nan), k)


def test_top_k_takes_minus_infinity_last_and_refuses_nan():
    scores = torch.tensor([-torch.inf, 0.0, -torch.inf, -9.0])
    assert top_k(scores, 2).tolist() == [1, 3]
    assert top_k(scores, 3).tolist() == [0, 1, 3]
    with pytest.raises(ValueError, match=r"not be NaN, found one at \[1\] of \(2,\)"):
        top_k(torch.tensor([0.0, torch.nan]), 1)


def test_coverage():
    tokens = make_tokens("gaussian", 30)
    k = reference.gram(tokens)
    mask = torch.zeros(30, dtype=torch.bool)
    mask[[2, 5, 11]] = True
    wanted = sum(max(k[i, j].item() for j in (2, 5, 11)) for i in range(30)) / 30
    assert coverage(tokens, mask).item() == pytest.approx(wanted, abs=1e-12)
    assert coverage(gram(tokens), mask, gram=True).item() == pytest.approx(wanted, abs=1e-12)
    assert coverage(tokens, torch.ones(30, dtype=torch.bool)).item() == pytest.approx(1)
    with pytest.raises(ValueError, match=r"mask must be bool of shape \(30,\), got torch.float32"):
        coverage(tokens, mask.float())
    with pytest.raises(ValueError, match="keeps no token"):
        coverage(tokens, torch.zeros(30, dtype=torch.bool))


def test_coverage_of_several_items_is_each_ones():
    tokens = torch.stack([make_tokens("gaussian", 12, seed=seed) for seed in range(2)])
    masks = torch.arange(12) % torch.tensor([[3], [4]]) == 0
    each = [coverage(own, mask) for own, mask in zip(tokens, masks)]
    torch.testing.assert_close(coverage(tokens, masks), torch.stack(each))
    with pytest.raises(ValueError, match=r"of shape \(2, 12\), got torch.bool of shape \(12,\)"):
        coverage(tokens, masks[0])


def test_order_and_rank_are_inverse_and_ties_go_by_index():
    values = torch.tensor([[3.0, 1.0, 3.0, -torch.inf], [0.0, 0.0, 0.0, 0.0]])
    assert order_of(values, descending=True).tolist() == [[0, 2, 1, 3], [0, 1, 2, 3]]
    assert order_of(values, descending=False).tolist() == [[3, 1, 0, 2], [0, 1, 2, 3]]
    assert rank_of(order_of(values, descending=True)).tolist() == [[0, 2, 1, 3], [0, 1, 2, 3]]


def test_the_greedy_pick_takes_the_first_of_near_ties():
    # within half a level of 65536 of the largest, but not beyond it
    level = 1 / 2**16
    for below, wanted in ((0.4 * level, 0), (0.6 * level, 1)):
        values = torch.tensor([[1 - below, 1.0, 0.0]], dtype=F64)
        assert best(values, torch.zeros_like(values)).item() == wanted
    # Scores that differ by rounding alone all tie, whatever their size.
    values = 1e6 + torch.tensor([[0.0, 1e-6, 2e-6]], dtype=F64)
    assert best(values, torch.zeros_like(values)).item() == 0


@settings(max_examples=60, deadline=None)
@example(values=[0.0, 1.0, 1 + 1e-6], barred=set(), offset=0.0)
@example(values=[0.0, 1.0, 1 + 1e-6, 7.0], barred={3}, offset=-50.0)
@given(
    values=st.lists(
        st.sampled_from([-3.0, -1e-7, 0.0, 1.0, 1 + 1e-6, 1 + 1e-4, 7.0]), min_size=2, max_size=12
    ),
    barred=st.sets(st.integers(0, 9)),
    offset=st.sampled_from([0.0, 50.0, -50.0]),
)
def test_the_greedy_pick_is_the_first_of_the_quantised_maximum(values, barred, offset):
    scores = torch.tensor([values]).double() + offset
    barred = {i for i in barred if i < len(values) - 1}
    taken = torch.tensor([[i in barred for i in range(len(values))]])
    penalty = torch.zeros_like(scores).masked_fill(taken, -torch.inf)
    wanted = quantise(scores.masked_fill(taken, -torch.inf)).argmax(-1)
    assert torch.equal(best(scores, penalty), wanted)
    assert penalty[0, wanted].item() == -torch.inf and (penalty < 0).sum() == taken.sum() + 1
