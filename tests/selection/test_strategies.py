"""What every strategy promises: exactly k tokens, the same ones each time, in a batch as alone."""

import itertools

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lib.clustering import kmeans
from lib.entropy import gram
from lib.selection import STRATEGIES, hierarchical, proportions, token_level, top_k
from tests.reference import make_tokens

F64 = torch.float64


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_keeps_exactly_k_repeats_itself_and_batches(name):
    strategy = STRATEGIES[name]
    batch = torch.stack([make_tokens("clustered", 36, seed) for seed in range(4)])
    batch = batch / batch.norm(dim=-1, keepdim=True)  # their Gram matrix says all about them
    for k in (1, 5, 18, 35, 36):
        mask = strategy(batch.reshape(2, 2, 36, 64), k, random_state=2)
        assert mask.dtype == torch.bool
        assert mask.shape == (2, 2, 36)
        assert (mask.sum(-1) == k).all()
        for i in range(4):
            assert torch.equal(mask.reshape(4, 36)[i], strategy(batch[i], k, random_state=2))
    unchecked = strategy(batch, 9, random_state=2, check=False)
    assert torch.equal(unchecked, strategy(batch, 9, random_state=2))
    assert torch.equal(unchecked, strategy(gram(batch), 9, random_state=2, gram=True))


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_strategy_takes_any_float_and_degenerate_tokens(name, dtype):
    for tokens in (torch.ones(9, 3), torch.eye(3).repeat(3, 1), torch.randn(1, 5)):
        size = len(tokens)
        for k in {1, -(-size // 2), size}:
            assert STRATEGIES[name](tokens.to(dtype), k).sum() == k


# Algorithm 1 takes two tokens of a cluster by design.
SPREADING = [n for n in STRATEGIES if n not in ("random", "one-shot", "algorithm-1")]


@pytest.mark.parametrize("name", SPREADING)
def test_strategies_keep_one_of_each_before_any_copy(name):
    tokens = torch.eye(4, dtype=F64).repeat_interleave(5, 0)
    mask = STRATEGIES[name](tokens, 4)
    assert mask.reshape(4, 5).sum(-1).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies_refuse_bad_budgets_and_bad_tokens(name):
    for k in (0, 7, 2.5, True):
        with pytest.raises(ValueError, match=rf"between 1 and N=6, got {k}.*\(6, 3\)"):
            STRATEGIES[name](torch.randn(6, 3), k)
    if name != "random":
        bad = torch.randn(6, 3)
        bad[4] = torch.nan
        with pytest.raises(ValueError, match=r"must be finite, got nan at index \[4\]"):
            STRATEGIES[name](bad, 3)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_an_empty_batch_gives_an_empty_mask(name):
    assert STRATEGIES[name](torch.empty(0, 10, 4), 3).shape == (0, 10)


def test_unchecked_calls_never_read_a_value():
    """Meta tensors have none: what runs on them cannot make a GPU wait for the host."""
    tokens = torch.empty(2, 40, 16, device="meta", dtype=torch.bfloat16)
    layers = [tokens] * 3
    assert kmeans(tokens, 8, check=False).labels.shape == (2, 40)
    for weighting, budget in itertools.product(("unit", "mass", "token-sum"), ("adaptive", 15)):
        options = {"weighting": weighting, "budget": budget, "check": False}
        assert hierarchical(tokens, 8, 4, 2, **options).mask.shape == (2, 40)
        assert hierarchical(None, 8, 4, 2, layers=layers, **options).mask.shape == (2, 40)
    for method in ("exact", "first-order", "renyi2"):
        assert token_level(tokens, 9, method=method, check=False).shape == (2, 40)
    for variant in ("scaled", "literal", "scores"):
        mask = token_level(None, 9, layers=layers, rollout=variant, check=False)
        assert mask.shape == (2, 40)
    for strategy in STRATEGIES.values():
        assert strategy(tokens, 9, check=False).shape == (2, 40)
    with pytest.raises(RuntimeError, match="meta"):
        kmeans(tokens, 8)


def test_errors():
    tokens = torch.eye(6)
    cases = [
        (lambda: hierarchical(tokens, 7, 2), r"n_clusters must be between 1 and N=6, got 7"),
        (lambda: hierarchical(tokens, 4, 5), r"between 1 and n_clusters=4, got 5"),
        (lambda: hierarchical(tokens, 4, 2, 0), r"tokens_per_cluster must be at least 1, got 0"),
        (lambda: hierarchical(tokens, 4, 2, budget=0), r"k must be .* between 1 and N=6, got 0"),
        (
            lambda: hierarchical(tokens, 4, 2, budget="half"),
            r'"adaptive" or an integer, got \'half',
        ),
        (lambda: hierarchical(tokens, 4, 2, weighting="max"), r"weighting must be .* got 'max'"),
        (lambda: hierarchical(tokens, 4, 2, cluster_on="both"), r"cluster_on must be .* 'both'"),
        (lambda: hierarchical(tokens, 4, 2, n_iter=0), r"n_iter must be at least 1, got 0"),
        (lambda: hierarchical(torch.ones(6), 4, 2), r"N, D >= 1, got \(6,\)"),
        (lambda: hierarchical(tokens, 4, 2, rollout="sum"), r"rollout must be .* got 'sum'"),
        (lambda: hierarchical(None), r"got neither"),
        (lambda: hierarchical(None, layers=[]), r"at least one layer, got none"),
        (
            lambda: hierarchical(None, 2, 1, layers=[torch.eye(3), tokens]),
            r"agree in all but the last dimension, got \[\(3, 3\), \(6, 6\)\]",
        ),
        (
            lambda: hierarchical(torch.eye(3), 2, 1, layers=[tokens]),
            r"tokens \(3, 3\) and the last layer \(6, 6\)",
        ),
        (
            lambda: hierarchical(None, 2, 1, layers=[torch.zeros(6, 2), tokens]),
            r"tokens must not be zero",
        ),
        (lambda: token_level(tokens, 2, method="fast"), r"method must be one of .* got 'fast'"),
        (lambda: token_level(tokens, 2, rollout="sum"), r"rollout must be .* got 'sum'"),
        (lambda: top_k(torch.ones(3), 4), r"between 1 and N=3, got 4 for shape \(3,\)"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


@settings(max_examples=200, deadline=None)
@example(size=1024, share=0.5)  # beyond 576 tokens the core clusters grow no more
@example(size=4096, share=1.0)
@given(size=st.integers(1, 4096), share=st.floats(0, 1))
def test_proportions(size, share):
    k = max(1, int(share * size))
    n_clusters, cores, per_cluster = proportions(size, k)
    assert 1 <= cores <= n_clusters <= size
    assert cores <= min(72, max(1, size // 8))
    assert n_clusters == min(size, 2 * cores)
    assert cores * per_cluster <= k < (cores + 1) * per_cluster
    # t_pc is no larger than the bound on the core clusters makes it
    assert per_cluster == -(-k // min(k, 72, max(1, size // 8)))


def test_the_bound_on_core_clusters():
    assert proportions(1024, 512) == (128, 64, 8)
    assert proportions(576, 576) == (144, 72, 8)
    assert proportions(2304, 1152) == (144, 72, 16)
    assert proportions(2304, 288) == (144, 72, 4)


def test_proportions_keep_what_is_given():
    assert proportions(256, 128, core_clusters=16) == (32, 16, 8)
    assert proportions(256, 128, core_clusters=16, tokens_per_cluster=2) == (32, 16, 2)
    assert proportions(256, 128, tokens_per_cluster=3) == (86, 43, 3)
    assert proportions(256, 128, n_clusters=100, tokens_per_cluster=2) == (100, 64, 2)


def test_algorithm_1_and_k_medoids_are_hierarchical_with_their_numbers():
    tokens = make_tokens("clustered", 60)
    wanted = hierarchical(tokens, *proportions(60, 25), budget=25, random_state=3).mask
    assert torch.equal(STRATEGIES["algorithm-1"](tokens, 25, random_state=3), wanted)
    options = {"budget": 25, "random_state": 3, "cluster_on": "unit"}
    wanted = hierarchical(tokens, 25, 25, 1, **options).mask
    assert torch.equal(STRATEGIES["k-medoids"](tokens, 25, random_state=3), wanted)


def test_random_is_a_permutation_of_its_seed():
    tokens = torch.randn(3, 20, 4)
    same = STRATEGIES["random"](tokens, 6, random_state=5)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(5))
    assert same[0].nonzero().flatten().tolist() == order[:6].sort().values.tolist()
    assert torch.equal(same[0], same[1])
    each = STRATEGIES["random"](tokens, 6, random_state=[5, 6, 7])
    assert torch.equal(each[0], same[0]) and not torch.equal(each[1], each[2])
    each[0] = True  # a caller's own tensor, not one that is kept
    assert STRATEGIES["random"](tokens, 6, random_state=[5, 6, 7])[0].sum() == 6
