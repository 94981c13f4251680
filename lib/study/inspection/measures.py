"""Numbers the notebooks print of tokens, kept sets and merged layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from ...clustering import KMeans, centroid_gram, kmeans
from ...entropy import effective_rank, entropy_operator, gram, leave_one_out, matrix_entropy
from ...rollout import rolled_importance
from ...selection import coverage
from .states import unit_gram

__all__ = ["cluster_on_tokens", "diversity", "rank_agreement", "spearman", "unit_centroids"]


def unit_centroids(tokens: Tensor, labels: Tensor, n_clusters: int) -> Tensor:
    """Gram matrix (..., M, M) of clusters' means of tokens (..., N, D) (eq. 4) at unit length.

    It is what eq. 5 scores.
    """
    tokens = tokens.double()
    means = centroid_gram(tokens @ tokens.mT, labels, n_clusters, gram=True)
    return unit_gram(means).float()


def diversity(tokens: Tensor, mask: Any) -> dict[str, float]:
    """What a kept set (N,) of tokens (N, D) is like, by name.

    "tokens" and their "entropy" (nats), "effective rank", "redundancy" (mean absolute cosine of two
    different kept tokens) and "coverage" (mean largest cosine of any token to a kept one).
    """
    mask = torch.as_tensor(mask)
    kept = gram(tokens[mask])
    size = len(kept)
    other = kept.abs().sum() - size
    return {
        "tokens": size,
        "entropy": float(matrix_entropy(kept, gram=True)),
        "effective rank": float(effective_rank(kept, gram=True)),
        "redundancy": float(other / max(size * (size - 1), 1)),
        "coverage": float(coverage(tokens, mask)),
    }


def rank_agreement(grams: Tensor) -> dict[str, Tensor]:
    """How far a rollout still ranks clusters as its layers do, after 1, 2, … S layers.

    `grams` (S, ..., M, M) are unit centroids' Gram matrices. For each variant of `lib.rollout`,
    (S, ...): the Spearman correlation of the merged importance with the mean over the merged layers
    of the exact leave-one-out scores.
    """
    operators = entropy_operator(grams.double(), gram=True)
    scores = leave_one_out(grams.double(), gram=True)
    found: dict[str, list[Tensor]] = {"scores": [], "scaled": [], "literal": []}
    for depth in range(1, len(grams) + 1):
        reference = scores[:depth].mean(0)
        for variant, values in found.items():
            layers = scores if variant == "scores" else operators
            merged = rolled_importance(layers[:depth], variant)
            values.append(spearman(merged, reference))
    return {variant: torch.stack(values) for variant, values in found.items()}


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """Rank correlation (...) of values (..., N), ties at their mean rank.

    >>> spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.1, 0.3, 0.2])).item()
    0.5
    """
    ranks = [rankdata(each.cpu().numpy(), axis=-1) for each in (first, second)]
    a, b = (each - each.mean(-1, keepdims=True) for each in ranks)
    length = np.sqrt(np.square(a).sum(-1) * np.square(b).sum(-1))
    return torch.as_tensor((a * b).sum(-1) / length)


def cluster_on_tokens(tokens: Tensor, n_clusters: int, *, random_state: int = 0) -> KMeans:
    """K-means of tokens (..., N, D) as they are, lengths included: eq. 4 and Algorithm 1."""
    tokens = tokens.double()
    return kmeans(tokens @ tokens.mT, n_clusters, random_state=random_state, gram=True)
