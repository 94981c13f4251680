"""Weighted choices against their worth by definition, in float64, and brute force."""

import itertools
import math

import pytest
import torch

from lib import selection
from lib.selection import Worth, weighted, weighted_operator
from tests import reference
from tests.reference import KINDS, make_tokens

TERMS = ("cover", "entropy", "volume", "relevance")
BLENDS = [
    {"cover": 1.0},
    {"cover": 0.0, "entropy": 1.0},
    {"cover": 0.0, "volume": 1.0},
    {"cover": 1.0, "entropy": 0.7, "volume": 0.3, "relevance": 0.2},
]


def weights_of(size, seed=0):
    """Positive and skewed, as attention is."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).double().exp()


def worth_of(matrix, weights, kept, blend):
    """The worth of a kept set by the formulae of the module, term by term."""
    size = len(matrix)
    w = weights / weights.mean()
    kept = list(kept)
    total = 0.0
    if blend.get("cover"):
        spread = (
            1 - sum(w[i] * w[j] * matrix[i, j] for i in range(size) for j in range(size)) / size**2
        )
        best = [max([0.0, *(float(matrix[j, s]) for s in kept)]) for j in range(size)]
        total += blend["cover"] * sum(float(w[j]) * best[j] for j in range(size)) / float(spread)
    if blend.get("entropy"):
        root = w.sqrt()
        rho = (matrix * root[:, None] * root)[kept][:, kept] / size
        total -= blend["entropy"] * size * reference.trace_form(rho) if kept else 0.0
    if blend.get("volume") and kept:
        part = matrix[kept][:, kept] + 1e-3 * torch.eye(len(kept)).double()
        total += blend["volume"] * float(torch.logdet(part) + w[kept].log().sum())
    if blend.get("relevance"):
        total += blend["relevance"] * float(w[kept].sum())
    return total


def naive_greedy(matrix, weights, k, blend, first=0):
    picks = []
    for step in range(k):
        rest = [i for i in range(len(matrix)) if i not in picks]
        if step < first:
            picks.append(max(rest, key=lambda i: float(weights[i])))
        else:
            picks.append(max(rest, key=lambda i: worth_of(matrix, weights, [*picks, i], blend)))
    return picks


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "duplicated"])
@pytest.mark.parametrize("blend", BLENDS)
def test_every_pick_adds_the_most(kind, blend):
    tokens, weights = make_tokens(kind, 12), weights_of(12)
    matrix = reference.gram(tokens)
    got = weighted(tokens, 7, weights, worth=Worth(**blend), nodes=60)
    want = naive_greedy(matrix, weights, 7, blend)
    if got.tolist() != want:  # a near-tie may fall to the lower index, for a worth as good
        one, other = (worth_of(matrix, weights, set_, blend) for set_ in (got.tolist(), want))
        assert one == pytest.approx(other, rel=1e-3)


@pytest.mark.parametrize("blend", BLENDS)
def test_within_what_greed_guarantees_of_the_best_set(blend):
    """Monotone submodular terms: 1 - 1/e of the best; in practice nearly all of it."""
    for seed in range(3):
        tokens, weights = make_tokens("gaussian", 9, seed), weights_of(9, seed)
        matrix = reference.gram(tokens)
        sets = itertools.combinations(range(9), 3)
        best = max(worth_of(matrix, weights, s, blend) for s in sets)
        got = weighted(tokens, 3, weights, worth=Worth(**blend))
        found = worth_of(matrix, weights, got.tolist(), blend)
        assert found >= best - 0.05 * abs(best)
        alone = weighted(tokens, 1, weights, worth=Worth(**blend))
        assert worth_of(matrix, weights, alone.tolist(), blend) == pytest.approx(
            max(worth_of(matrix, weights, [i], blend) for i in range(9))
        )


@pytest.mark.parametrize("blend", BLENDS)
def test_one_shot_ranks_by_what_is_lost_without_a_token(blend):
    tokens, weights = make_tokens("clustered", 14, 3), weights_of(14, 3)
    matrix = reference.gram(tokens)
    whole = worth_of(matrix, weights, range(14), blend)
    losses = [
        whole - worth_of(matrix, weights, [j for j in range(14) if j != i], blend)
        for i in range(14)
    ]
    want = sorted(range(14), key=lambda i: -losses[i])
    got = weighted(tokens, 14, weights, worth=Worth(**blend), one_shot=True).tolist()
    for rank, token in enumerate(got):  # equal but for near-ties
        assert losses[token] == pytest.approx(losses[want[rank]], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("one_shot", [False, True])
@pytest.mark.parametrize("blend", BLENDS)
def test_batches_nesting_scale_and_permutation(blend, one_shot):
    tokens = torch.stack([make_tokens("gaussian", 20, s) for s in (5, 6)]).float()
    weights = torch.stack([weights_of(20, s) for s in (1, 2)]).float()
    options = {"worth": Worth(**blend), "one_shot": one_shot}
    whole = weighted(tokens, 12, weights, **options)
    for item in range(2):
        assert torch.equal(weighted(tokens[item], 12, weights[item], **options), whole[item])
    assert torch.equal(weighted(tokens, 5, weights, **options), whole[:, :5])
    assert torch.equal(weighted(3 * tokens, 12, 7 * weights, **options), whole)
    turn = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    other = weighted(tokens[:, turn], 12, weights[:, turn], **options)
    assert torch.equal(turn[other], whole)
    assert all(len(set(row)) == 12 for row in whole.tolist())


def test_equal_weights_are_the_unweighted_rules():
    tokens = make_tokens("gaussian", 24, 2)
    ones = torch.ones(24)
    for weights in (None, ones, torch.zeros(24)):
        picks = weighted(tokens, 9, weights, worth=Worth(cover=1.0, entropy=1.0))
        mask = torch.zeros(24, dtype=torch.bool)
        mask[picks] = True
        assert torch.equal(mask, selection.adaptive(tokens, 9))
    # where all single tokens are worth the same, `dpp` starts with the least redundant
    ones[reference.gram(tokens).square().sum(1).argmin()] += 1e-3
    volume = weighted(tokens, 9, ones, worth=Worth(cover=0.0, volume=1.0))
    assert set(volume.tolist()) == set(selection.dpp(tokens, 9).nonzero().squeeze(1).tolist())


def test_orthogonal_tokens_are_ranked_by_weight():
    tokens, weights = torch.eye(10), weights_of(10, 4)
    order = weights.argsort(descending=True).tolist()
    for blend in BLENDS:
        if not blend.get("entropy"):  # w log(N / w) falls again above N / e
            assert weighted(tokens, 10, weights, worth=Worth(**blend)).tolist() == order


def test_copies_add_nothing_to_coverage_and_go_last():
    tokens = torch.eye(4).repeat(2, 1)
    weights = torch.tensor([4.0, 3.0, 2.0, 1.0, 9.0, 8.0, 7.0, 6.0])
    assert weighted(tokens, 4, weights).tolist() == [0, 1, 2, 3]  # copies cover as well: by index
    assert sorted(weighted(tokens, 8, weights).tolist()) == list(range(8))


def test_the_first_picks_can_be_the_largest_weights():
    tokens, weights = make_tokens("clustered", 16), weights_of(16)
    top = weights.argsort(descending=True).tolist()
    for one_shot in (False, True):
        picks = weighted(tokens, 8, weights, first=5, one_shot=one_shot).tolist()
        assert picks[:5] == top[:5] and len(set(picks)) == 8
    assert weighted(tokens, 8, weights, first=3).tolist() == naive_greedy(
        reference.gram(tokens), weights, 8, {"cover": 1.0}, first=3
    )


def test_the_first_picks_can_have_a_priority_of_their_own():
    tokens, priority = make_tokens("clustered", 16), weights_of(16, 8).log()
    top = priority.argsort(descending=True).tolist()
    for one_shot in (False, True):
        picks = weighted(tokens, 6, weights_of(16), first=4, priority=priority, one_shot=one_shot)
        assert picks.tolist()[:4] == top[:4]
    with pytest.raises(ValueError, match=r"priority must have shape \(16,\), got \(4,\)"):
        weighted(tokens, 6, first=4, priority=torch.ones(4))


def test_a_weight_of_zero_hides_a_token_from_entropy():
    tokens, weights = make_tokens("gaussian", 8), torch.ones(8)
    weights[2] = 0
    order = weighted(tokens, 8, weights, worth=Worth(cover=0.0, entropy=1.0)).tolist()
    assert order[-1] == 2


def test_the_weighted_operator_has_trace_one_and_the_entropy_of_the_definition():
    tokens, weights = make_tokens("smooth", 10), weights_of(10)
    rho = weighted_operator(tokens, weights)
    assert float(rho.trace()) == pytest.approx(1.0)
    root = (weights / weights.sum()).sqrt()
    torch.testing.assert_close(rho, reference.gram(tokens) * root[:, None] * root)
    assert reference.entropy(rho) <= math.log(10)


@pytest.mark.parametrize("options, message", [
    ({"k": 0}, "k must be an integer"),
    ({"weights": torch.ones(4)}, r"weights must have shape \(5,\), got \(4,\)"),
    ({"weights": torch.tensor([1.0, -1, 1, 1, 1])}, "not negative, least -1"),
    ({"weights": torch.tensor([1.0, float("nan"), 1, 1, 1])}, "weights must be finite"),
    ({"first": 4}, "first must be in 0..k = 3, got 4"),
])  # fmt: skip
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        weighted(torch.eye(5), **({"k": 3} | options))


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_bad_worth(name, value):
    with pytest.raises(ValueError, match=f"{name} must be finite and not negative"):
        Worth(**{name: value})
