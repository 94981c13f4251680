"""BLEU by pycocoevalcap, and from sums of what it counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer

__all__ = ["bleu", "bleu_score"]


def bleu(said: Sequence[str], truth: Sequence[Sequence[str]]):
    """Statistics `(n, 6)`, sentence scores (4 of `(n,)`) and corpus scores (4)."""
    scorer = BleuScorer(n=4)
    for hypothesis, texts in zip(said, truth):
        scorer += (hypothesis, texts)
    corpus, sentences = scorer.compute_score(option="closest", verbose=0)
    statistics = [
        [
            *cooked["correct"],
            cooked["testlen"],
            scorer._single_reflen(cooked["reflen"], "closest", cooked["testlen"]),
        ]
        for cooked in scorer.ctest
    ]
    return np.array(statistics, dtype=float), [np.array(s) for s in sentences], corpus


def bleu_score(sums: np.ndarray, guesses: np.ndarray) -> np.ndarray:
    """BLEU-1..4 `(..., 4)` of summed statistics `(..., 6)` and n-gram counts `(..., 4)`.

    With the same guards against empty counts as pycocoevalcap.
    """
    correct, length, reference = sums[..., :4], sums[..., 4], sums[..., 5]
    precision = np.cumprod((correct + 1e-15) / (guesses + 1e-9), axis=-1)
    ratio = (length + 1e-15) / (reference + 1e-9)
    brevity = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
    return precision ** (1 / np.arange(1, 5)) * brevity[..., None]
