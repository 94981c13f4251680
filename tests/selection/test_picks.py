"""Greedy rules of one update a pick: against their definitions, and the best of all subsets."""

import itertools
import math

import pytest
import torch

from lib.selection import conditional_dpp, facility_location, farthest_points
from tests.reference import make_tokens

KINDS = ["gaussian", "clustered", "rank-deficient"]
F64 = torch.float64


def cosines(tokens):
    unit = torch.nn.functional.normalize(tokens.double(), dim=-1)
    return unit @ unit.T


def argmax(values):
    """The first of the largest."""
    return max(range(len(values)), key=lambda i: (values[i], -i))


def step_by_step(size, k, value, first=None):
    """k picks, each the candidate whose set has the largest value, worked out from scratch."""
    chosen = [] if first is None else [first]
    while len(chosen) < k:
        values = [-math.inf if i in chosen else value([*chosen, i]) for i in range(size)]
        chosen.append(argmax(values))
    return chosen


def least_distance(matrix, chosen):
    """The smallest distance of two of the chosen."""
    return min(1 - matrix[a, b].item() for a, b in itertools.combinations(chosen, 2))


def farthest(matrix, k):
    """The definition of max-min picks, in plain loops."""
    size = len(matrix)
    nearest = [min(1 - matrix[i, j].item() for j in range(size) if j != i) for i in range(size)]
    chosen = [argmax(nearest)]
    while len(chosen) < k:
        away = [
            -1.0 if i in chosen else min(1 - matrix[i, s].item() for s in chosen)
            for i in range(size)
        ]  # fmt: skip
        chosen.append(argmax(away))
    return chosen


def covered(rows, chosen):
    return sum(max([0.0, *(row[j].item() for j in chosen)]) for row in rows)


def log_volume(kernel, chosen):
    return torch.logdet(kernel[chosen][:, chosen]).item()


@pytest.mark.parametrize("kind", KINDS)
def test_farthest_points_follow_their_definition(kind):
    tokens = make_tokens(kind, 24)
    for k in (1, 2, 9, 24):
        assert farthest_points(tokens, k).tolist() == farthest(cosines(tokens), k)


@pytest.mark.parametrize("seed", range(4))
def test_farthest_points_are_within_half_of_the_best_set(seed):
    """Gonzalez: distances that obey the triangle inequality; here those of unit vectors."""
    tokens = torch.randn(10, 4, generator=torch.Generator().manual_seed(seed))
    matrix = cosines(tokens)
    for k in (2, 3, 5):
        # the cosine distance is half the square of the euclidean one, so a half becomes a quarter
        best = max(least_distance(matrix, s) for s in itertools.combinations(range(10), k))
        assert least_distance(matrix, farthest_points(tokens, k).tolist()) >= best / 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_facility_location_follows_its_definition(kind, weighted):
    rows = cosines(make_tokens(kind, 20))
    weights = torch.rand(20, generator=torch.Generator().manual_seed(1)) if weighted else None
    chosen = []
    for _ in range(20):
        gains = [
            -math.inf
            if i in chosen
            else (covered(rows, [*chosen, i]) - covered(rows, chosen))
            * (1.0 if weights is None else weights[i].item())
            for i in range(20)
        ]  # fmt: skip
        chosen.append(argmax([round(gain, 9) for gain in gains]))
    for k in (1, 5, 13):
        assert facility_location(rows.float(), k, weights=weights).tolist() == chosen[:k]


@pytest.mark.parametrize("seed", range(4))
def test_facility_location_is_near_the_best_of_all_subsets(seed):
    rows = torch.rand(7, 10, generator=torch.Generator().manual_seed(seed), dtype=F64)
    for k in (1, 2, 4):
        best = max(covered(rows, s) for s in itertools.combinations(range(10), k))
        got = covered(rows, facility_location(rows, k).tolist())
        assert got >= (1 - 1 / math.e) * best
        if k == 1:
            assert got == pytest.approx(best)


@pytest.mark.parametrize("kind", KINDS)
def test_conditional_dpp_follows_its_definition(kind):
    tokens = make_tokens(kind, 12)
    quality = torch.rand(12, generator=torch.Generator().manual_seed(2)) + 0.1
    kernel = cosines(tokens) * quality.double()[:, None] * quality.double()
    most = min(6, int(torch.linalg.matrix_rank(kernel)))  # beyond, no set has any volume
    wanted = step_by_step(12, most, lambda chosen: log_volume(kernel, chosen))
    for k in (1, 2, most):
        assert conditional_dpp(tokens, quality, k).tolist() == wanted[:k]


def test_conditional_dpp_is_the_best_single_token_and_near_the_best_pair():
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randn(10, 6, generator=generator)
        quality = torch.rand(10, generator=generator) + 0.1
        kernel = cosines(tokens) * quality.double()[:, None] * quality.double()
        assert conditional_dpp(tokens, quality, 1).item() == quality.argmax().item()
        best = max(log_volume(kernel, list(s)) for s in itertools.combinations(range(10), 2))
        got = log_volume(kernel, conditional_dpp(tokens, quality, 2).tolist())
        assert got >= best - math.log(4)  # k!² for k = 2 (Civril & Magdon-Ismail 2009)


def test_a_dpp_of_orthogonal_tokens_takes_the_best_and_one_of_equals_is_plain_log_det():
    quality = torch.tensor([0.3, 0.9, 0.5, 0.7])
    assert conditional_dpp(torch.eye(4), quality, 3).tolist() == [1, 3, 2]
    tokens = make_tokens("gaussian", 10)
    wanted = step_by_step(10, 5, lambda chosen: log_volume(cosines(tokens), chosen), first=0)
    assert conditional_dpp(tokens, torch.ones(10), 5).tolist() == wanted


def rules(tokens):
    quality = 0.2 + make_tokens("gaussian", len(tokens), 5)[:, 0].abs().to(tokens.dtype)
    matrix = cosines(tokens)
    return {
        "farthest": lambda k, order: farthest_points(tokens[order], k),
        "facility": lambda k, order: facility_location(
            matrix[order][:, order].float(), k, weights=quality[order]
        ),
        "dpp": lambda k, order: conditional_dpp(tokens[order], quality[order], k),
    }


@pytest.mark.parametrize("name", ["farthest", "facility", "dpp"])
@pytest.mark.parametrize("kind", KINDS)
def test_smaller_choices_are_prefixes_and_the_order_of_tokens_does_not_matter(name, kind):
    tokens = make_tokens(kind, 20)
    rule, same = rules(tokens)[name], torch.arange(20)
    whole = rule(20, same)
    assert whole.sort().values.tolist() == list(range(20))  # T = N keeps all
    for k in (1, 4, 11):
        assert torch.equal(rule(k, same), whole[:k])
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    assert torch.equal(order[rule(8, order)], whole[:8])


@pytest.mark.parametrize("name", ["farthest", "facility", "dpp"])
def test_a_batch_is_its_items_and_half_precision_is_read_in_full(name):
    batch = torch.stack([make_tokens("gaussian", 16, seed).float() for seed in range(3)])
    quality = torch.rand(3, 16, generator=torch.Generator().manual_seed(4)) + 0.1
    calls = {
        "farthest": lambda t, q, k: farthest_points(t, k),
        "facility": lambda t, q, k: facility_location(t @ t.mT, k, weights=q),
        "dpp": lambda t, q, k: conditional_dpp(t, q, k),
    }
    call = calls[name]
    together = call(batch, quality, 7)
    for one, own, picks in zip(batch, quality, together):
        assert torch.equal(call(one, own, 7), picks)
    half = batch.bfloat16()
    if name != "facility":
        assert torch.equal(call(half, quality, 7), call(half.float(), quality, 7))


def test_copies_come_last_and_by_index():
    """Two copies of three orthogonal tokens: none is picked twice, whatever the distances."""
    tokens = torch.eye(3).repeat(2, 1)
    assert farthest_points(tokens, 6)[:3].tolist() == [0, 1, 2]
    for k in range(1, 7):
        assert len(set(farthest_points(tokens, k).tolist())) == k
        assert len(set(facility_location(tokens @ tokens.T, k).tolist())) == k
        assert len(set(conditional_dpp(tokens, torch.ones(6), k).tolist())) == k
    assert facility_location(tokens @ tokens.T, 6).tolist() == [0, 1, 2, 3, 4, 5]
    assert conditional_dpp(tokens, torch.tensor([1.0, 1, 1, 0.9, 0.8, 0.7]), 6).tolist() == [
        0, 1, 2, 3, 4, 5,
    ]  # fmt: skip


def test_all_tokens_alike_are_taken_in_order():
    tokens = torch.ones(5, 3)
    assert farthest_points(tokens, 3).tolist() == [0, 1, 2]
    assert facility_location(torch.ones(4, 5), 3).tolist() == [0, 1, 2]
    assert facility_location(torch.zeros(4, 5), 3).tolist() == [0, 1, 2]
    assert conditional_dpp(tokens, torch.ones(5), 3).tolist() == [0, 1, 2]
    assert farthest_points(torch.ones(1, 3), 1).tolist() == [0]


def test_two_tokens_are_equally_far_from_each_other_and_one_is_alone():
    tokens = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    assert farthest_points(tokens, 2).tolist() == [0, 1]
    assert farthest_points(tokens, 1).tolist() == [0]


def test_items_may_have_several_leading_dimensions():
    batch = torch.stack([make_tokens("gaussian", 9, seed) for seed in range(6)]).view(2, 3, 9, -1)
    quality = torch.rand(2, 3, 9, generator=torch.Generator().manual_seed(4)) + 0.1
    calls = (
        lambda t, q: farthest_points(t, 4),
        lambda t, q: facility_location(t @ t.mT, 4, weights=q),
        lambda t, q: conditional_dpp(t, q, 4),
    )
    for call in calls:
        together = call(batch, quality)
        assert together.shape == (2, 3, 4)
        for row in range(2):
            for item in range(3):
                alone = call(batch[row, item], quality[row, item])
                assert torch.equal(together[row, item], alone)


def test_bad_input_is_named():
    tokens = torch.eye(3)
    with pytest.raises(ValueError, match="k must be an integer between 1 and N=3, got 4"):
        farthest_points(tokens, 4)
    with pytest.raises(ValueError, match=r"weights must have shape \(3,\), got \(2,\)"):
        facility_location(tokens, 1, weights=torch.ones(2))
    with pytest.raises(ValueError, match="must not be NaN"):
        facility_location(torch.full((2, 3), torch.nan), 1)
    with pytest.raises(ValueError, match=r"quality must have shape \(3,\), got \(2,\)"):
        conditional_dpp(tokens, torch.ones(2), 1)
    with pytest.raises(ValueError, match="quality must not be negative or NaN, least -1"):
        conditional_dpp(tokens, torch.tensor([1.0, -1.0, 1.0]), 1)
    with pytest.raises(ValueError, match="tokens must not be zero"):
        farthest_points(torch.zeros(3, 2), 1)
