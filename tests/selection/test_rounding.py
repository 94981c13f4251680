"""Disturbances as small as another processor's rounding leave the choices alone.

`python -m tests.selection.rounding` measures the same on the tokens of the embedded model.
"""

import pytest
import torch

from lib.clustering import kmeans
from lib.selection import STRATEGIES, hierarchical
from tests.reference import make_tokens


@pytest.fixture(scope="module")
def pair():
    """Float32 tokens of 30 images, and the same with a relative disturbance of 2e-7.

    Without the kind in which distances are equal by symmetry: there rounding has a say.
    """
    kinds = ("gaussian", "clustered", "rank-deficient")
    tokens = [make_tokens(kind, 96, seed, torch.float32) for kind in kinds for seed in range(10)]
    tokens = torch.stack([x[:, [i % x.shape[1] for i in range(64)]] for x in tokens])
    noise = 2e-7 * torch.randn(tokens.shape, generator=torch.Generator().manual_seed(0))
    return tokens, tokens * (1 + noise)


def differing(a, b):
    return int((a != b).any(-1).sum())


# When distances were added up on the grid on which they are compared, about a tenth of the
# clusterings differed.
@pytest.mark.parametrize("n_clusters", [12, 48, 72])
def test_clusters(pair, n_clusters):
    a, b = (kmeans(tokens, n_clusters).labels for tokens in pair)
    assert differing(a, b) <= 1


@pytest.mark.parametrize("budget", [24, "adaptive"])
def test_algorithm_1(pair, budget):
    a, b = (hierarchical(tokens, 24, 12, 2, budget=budget).mask for tokens in pair)
    assert differing(a, b) <= 1


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies(pair, name):
    a, b = (STRATEGIES[name](tokens, 32) for tokens in pair)
    assert differing(a, b) <= 4
    assert (a & b).sum() >= 0.99 * a.sum()


def test_copies_are_told_apart_by_their_index_alone():
    """Exact ties: copies disturbed each in its own way are still copies."""
    for seed in range(10):
        tokens = make_tokens("gaussian", 12, seed, torch.float32).repeat(4, 1)
        noise = 2e-7 * torch.randn(tokens.shape, generator=torch.Generator().manual_seed(seed))
        for n_clusters in (6, 12, 20):
            a, b = (kmeans(x, n_clusters) for x in (tokens, tokens * (1 + noise)))
            together = [x.labels.unsqueeze(0) == x.labels.unsqueeze(1) for x in (a, b)]
            assert torch.equal(*together)  # numbers may differ: the last two centres often tie
            assert a.counts.count_nonzero() == min(n_clusters, 12)
        a, b = (hierarchical(x, 12, 6, 2).mask for x in (tokens, tokens * (1 + noise)))
        assert a.reshape(4, 12)[:2].sum() == a.sum()  # of four copies the first two
        assert torch.equal(a, b)
