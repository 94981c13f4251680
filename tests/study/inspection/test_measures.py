"""Numbers of tokens, kept sets and merged layers, against their definitions."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from lib.entropy import gram
from lib.study.inspection.measures import (
    cluster_on_tokens,
    diversity,
    rank_agreement,
    spearman,
    unit_centroids,
)


def test_diversity_by_its_definitions():
    tokens = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    mask = np.arange(9) % 2 == 0
    found = diversity(tokens, mask)
    unit = (tokens / tokens.norm(dim=1, keepdim=True)).double().numpy()
    cosine = unit @ unit.T
    kept = cosine[np.ix_(mask, mask)]
    share = np.linalg.eigvalsh(kept).clip(1e-300) / 5
    entropy = -(share * np.log(share)).sum()
    others = np.abs(kept[~np.eye(5, dtype=bool)])
    expected = {"tokens": 5, "entropy": entropy, "effective rank": np.exp(entropy),
                "redundancy": others.mean(), "coverage": cosine[:, mask].max(1).mean()}  # fmt: skip
    assert found == pytest.approx(expected, abs=1e-5)


def test_unit_centroids_have_length_one():
    tokens = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(12) % 3
    means = torch.stack([tokens[labels == m].mean(0) for m in range(3)])
    torch.testing.assert_close(unit_centroids(tokens, labels, 3), gram(means))


def test_tokens_are_clustered_with_their_lengths():
    """Directions alone would put the first and the third together."""
    tokens = torch.tensor([[1.0, 0.0], [0.9, 0.3], [9.0, 0.0], [9.0, 0.5]])
    labels = cluster_on_tokens(tokens, 2).labels.tolist()
    assert labels[0] == labels[1] != labels[2] == labels[3]


def test_spearman_is_scipys():
    a, b = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    want = [spearmanr(x, y).statistic for x, y in zip(a, b)]
    assert spearman(a, b).tolist() == pytest.approx(want)


def test_rank_agreement_of_one_layer_is_perfect_and_scores_never_invert():
    generator = torch.Generator().manual_seed(0)
    grams = torch.stack([gram(torch.randn(8, 6, generator=generator)) for _ in range(4)])
    found = rank_agreement(grams)
    both = rank_agreement(torch.stack([grams, grams.flip(0)], 1))
    for variant, values in found.items():
        torch.testing.assert_close(both[variant][:, 0], values)
    assert set(found) == {"scores", "scaled", "literal"}
    assert all(len(values) == 4 for values in found.values())
    assert all(value > 0.99 for value in found["scores"])
    assert found["scores"][0] == pytest.approx(1) and found["scaled"][0] == found["literal"][0]


def test_the_literal_product_of_many_layers_loses_the_ranking():
    tokens = torch.randn(16, 64, generator=torch.Generator().manual_seed(1)) + 0.8
    found = rank_agreement(gram(tokens).expand(24, -1, -1))
    assert found["literal"][-1] < found["literal"][0] - 0.5
    assert found["scaled"][-1] > 0.9
