"""Numbers the notebooks print of tokens, kept sets and merged layers."""

from __future__ import annotations

from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from ...clustering import centroid_gram
from ...entropy import effective_rank, entropy_operator, gram, leave_one_out, matrix_entropy
from ...rollout import importance, rollout
from ...selection import coverage
from .states import unit_gram

__all__ = ["diversity", "rank_agreement", "unit_centroids"]


def unit_centroids(tokens: Tensor, labels: Tensor, n_clusters: int) -> Tensor:
    """Gram matrix (M, M) of the unit centroids of clusters: what eq. 5 scores."""
    return unit_gram(centroid_gram(tokens, labels, n_clusters))


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


def rank_agreement(grams: Tensor) -> dict[str, list[float]]:
    """How far a rollout still ranks clusters as its layers do, after 1, 2, … S layers.

    `grams` (S, M, M) are unit centroids' Gram matrices. For each variant of `lib.rollout`: the
    Spearman correlation of the merged importance with the mean over the merged layers of the exact
    leave-one-out scores.
    """
    operators = entropy_operator(grams.double(), gram=True)
    scores = leave_one_out(grams.double(), gram=True)
    found: dict[str, list[float]] = {"scores": [], "scaled": [], "literal": []}
    for depth in range(1, len(grams) + 1):
        reference = scores[:depth].mean(0)
        for variant, values in found.items():
            layers = scores if variant == "scores" else operators
            merged = importance(rollout(layers[:depth], variant), variant)
            values.append(float(spearmanr(merged.cpu(), reference.cpu()).statistic))
    return found
