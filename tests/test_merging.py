"""Bipartite soft matching against a loop over tokens, and the schedule of merges."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lib.merging import merge, schedule


def naive_merge(tokens, metric, sizes, r):
    """One sequence, token by token, in float64: mean and size at the position of each result."""
    metric = metric.double() / metric.double().norm(dim=-1, keepdim=True)
    even, odd = list(range(0, len(tokens), 2)), list(range(1, len(tokens), 2))
    edges = []
    for a in even[1:]:  # the first one is the class token
        similarity, b = max(((metric[a] @ metric[b]).item(), -b) for b in odd)
        edges.append((similarity, -a, -b))
    merged = {-a: b for similarity, a, b in sorted(edges, reverse=True)[:r]}
    out = {i: [i] for i in range(len(tokens)) if i not in merged}
    for a, b in merged.items():
        out[b].append(a)
    result = {}
    for target, members in out.items():
        weight = sizes[members].double()
        mean = (tokens[members].double() * weight[:, None]).sum(0) / weight.sum()
        result[target] = mean, weight.sum().item()
    return result


def arrange(length, seed, items=2):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(items, length, 5, generator=generator)
    metric = torch.randn(items, length, 3, generator=generator)
    sizes = torch.randint(1, 5, (items, length), generator=generator).float()
    return tokens, metric, sizes, torch.arange(length).expand(items, -1)


@settings(max_examples=60, deadline=None)
@example(length=3, share=1.0, seed=0)
@given(length=st.integers(3, 24), share=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_merge_equals_the_naive_loop(length, share, seed):
    r = int(share * ((length - 1) // 2))
    tokens, metric, sizes, positions = arrange(length, seed)
    out = merge(tokens, metric, sizes, positions, r)
    assert out.tokens.shape == (2, length - r, 5)
    assert out.sizes.dtype == sizes.dtype
    torch.testing.assert_close(out.sizes.sum(1), sizes.sum(1))
    for item in range(2):
        expected = naive_merge(tokens[item], metric[item], sizes[item], r)
        assert sorted(out.positions[item].tolist()) == sorted(expected)
        assert out.positions[item, 0] == 0  # the class token stays first
        for token, size, place in zip(out.tokens[item], out.sizes[item], out.positions[item]):
            mean, total = expected[int(place)]
            assert size == total
            torch.testing.assert_close(token.double(), mean, atol=1e-5, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(length=st.integers(7, 24), seed=st.integers(0, 10**6))
def test_two_steps_keep_the_mass_and_the_weighted_mean(length, seed):
    tokens, metric, sizes, positions = arrange(length, seed)
    once = merge(tokens, metric, sizes, positions, 2)
    twice = merge(once.tokens, once.tokens, once.sizes, once.positions, 1)
    for out in (once, twice):
        torch.testing.assert_close(out.sizes.sum(1), sizes.sum(1))
        mass = (out.tokens * out.sizes[..., None]).sum(1)
        torch.testing.assert_close(mass, (tokens * sizes[..., None]).sum(1), atol=1e-4, rtol=1e-4)
    for item in range(2):
        places = twice.positions[item].tolist()
        assert len(set(places)) == length - 3 and 0 in places
        assert set(places) <= set(once.positions[item].tolist())


def test_the_class_token_is_never_merged_away():
    tokens = torch.ones(1, 5, 2)  # every pair is as similar as any
    out = merge(tokens, tokens, torch.ones(1, 5), torch.arange(5)[None], 2)
    assert 0 in out.positions[0].tolist() and out.sizes[0, 0] == 1
    # of equals the first token goes to its first partner
    out = merge(tokens, tokens, torch.ones(1, 5), torch.arange(5)[None], 1)
    assert out.positions.tolist() == [[0, 4, 1, 3]] and out.sizes.tolist() == [[1, 1, 2, 1]]


def test_half_precision_keeps_its_type():
    tokens, metric, sizes, positions = arrange(9, 0)
    out = merge(tokens.bfloat16(), metric.bfloat16(), sizes, positions, 3)
    assert out.tokens.dtype == torch.bfloat16 and out.sizes.dtype == torch.float32


def test_merge_of_nothing_changes_nothing():
    tokens = torch.randn(1, 9, 4)
    sizes, positions = torch.ones(1, 9), torch.arange(9)[None]
    out = merge(tokens, tokens, sizes, positions, 0)
    assert out.tokens is tokens and out.sizes is sizes and out.positions is positions
    with pytest.raises(ValueError, match="r must be at most 4 for 9 tokens, got 5"):
        merge(tokens, tokens, sizes, positions, 5)
    with pytest.raises(ValueError, match="r must not be negative, got -1"):
        merge(tokens, tokens, sizes, positions, -1)


@settings(max_examples=100, deadline=None)
@example(tokens=256, share=0.5, blocks=4)
@example(tokens=577, share=0.13, blocks=3)
@given(tokens=st.integers(1, 600), share=st.floats(0, 1), blocks=st.integers(1, 24))
def test_schedule_reaches_the_budget_or_says_why_not(tokens, share, blocks):
    keep = max(1, int(share * tokens))
    smallest = tokens
    for _ in range(blocks):
        smallest -= smallest // 2
    if keep < smallest:
        with pytest.raises(ValueError, match=f"smallest count here is {smallest}"):
            schedule(tokens, keep, blocks)
        return
    plan = schedule(tokens, keep, blocks)
    assert len(plan) == blocks
    left = tokens
    for r in plan:
        assert 0 <= r <= left // 2
        left -= r
    assert left == keep
    # as even as possible, early blocks first, unless half of the tokens is less than a share
    if max(plan) <= keep // 2:
        assert plan == sorted(plan, reverse=True) and plan[0] - plan[-1] <= 1
