"""The card's table of Algorithm 1's M and k_c: for each image by a rule, or the best fixed pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..clusters import CLUSTERS, VARIED, cores, fewest, nearest, pairs, share_for
from ..evaluation import Family, Scores, compare_families
from ..trials import load_trial

__all__ = ["clusters"]

#: kept tokens, and what multiples of the effective rank are tried for M
COUNTS = (128, 64, 32, 16)
FACTORS = np.geomspace(1, 24, 25)


@dataclass(frozen=True)
class _Split:
    """What was measured on one split where `count` tokens are kept."""

    part: Mapping[str, Any]
    count: int

    def fixed(self, m: int, k: int) -> np.ndarray:
        """Divergences (n,) with one pair for all images."""
        return np.array(self.part["kl"][f"{m}-{k}-{self.count}"])

    def by_rank(self, factor: float) -> np.ndarray:
        """Those with M nearest to a multiple of the effective rank, k_c half of it."""
        measured = np.array([self.fixed(m, min(self.count, m // 2)) for m in CLUSTERS])
        index = nearest(np.exp(self.part["entropy"]), factor)
        return measured[index, np.arange(len(index))]

    def by_scores(self, m: int, share: float) -> np.ndarray:
        """Those with the fewest core clusters of M that hold a share of the scores."""
        index = fewest(self.held(m), share)
        measured = np.array([self.fixed(m, k) for k in cores(m, self.count)])
        return measured[index, np.arange(len(index))]

    def held(self, m: int) -> np.ndarray:
        """The share of the scores (n, levels) that the best k_c clusters of M hold."""
        return np.array(self.part["held"][str(m)])[:, : len(cores(m, self.count))]


class _Row(NamedTuple):
    """A rule for each image beside the fixed pair: divergences (n,) on test."""

    count: int
    pair: str
    fixed: np.ndarray
    rule: str
    values: np.ndarray


def clusters() -> tuple[Sequence[object], list[Sequence[object]]]:
    """Rules of dev against the best fixed pair of dev, on test; corrected together."""
    parts = load_trial("clusters")["clusters"]
    ids = parts["test"]["image_ids"]
    made = [
        row for count in COUNTS
        for row in _chosen(_Split(parts["val"], count), _Split(parts["test"], count))
    ]  # fmt: skip
    scores = {}
    for number, row in enumerate(made):
        scores[f"fixed {number}"] = Scores.of_means(ids, {"kl": row.fixed})
        scores[f"rule {number}"] = Scores.of_means(ids, {"kl": row.values})
    asked = tuple((f"rule {number}", f"fixed {number}") for number in range(len(made)))
    compared = compare_families(scores, [Family("clusters", asked, ("kl",))])["clusters"]
    rows: list[Sequence[object]] = [
        [row.count, row.pair, f"{row.fixed.mean():.4f}", row.rule, f"{row.values.mean():.4f}",
         f"{one.value:+.4f} [{one.low:+.4f}, {one.high:+.4f}]",
         f"{max(one.p_holm, one.flip_holm):.3f}"]
        for row, one in zip(made, compared, strict=True)
    ]  # fmt: skip
    head = ["tokens", "best fixed M, k_c", "fixed", "rule", "by rule", "difference, 95 %"]
    return [*head, "p (Holm)"], rows


def _chosen(dev: _Split, test: _Split) -> list[_Row]:
    """The rules as dev chooses them."""
    count = dev.count
    m, k = min(pairs(count), key=lambda pair: dev.fixed(*pair).mean())
    factor = min(FACTORS, key=lambda c: dev.by_rank(c).mean())
    shares = {}
    for size in VARIED:
        levels = cores(size, count)
        shares[size] = share_for(dev.held(size), levels, float(np.mean(levels)))
    size = min(VARIED, key=lambda one: dev.by_scores(one, shares[one]).mean())
    found = {
        f"M = {factor:.1f} exp(S)": test.by_rank(factor),
        f"k_c of M = {size} by {100 * shares[size]:.0f} % of scores": test.by_scores(
            size, shares[size]
        ),
    }
    fixed = test.fixed(m, k)
    return [_Row(count, f"{m}, {k}", fixed, rule, values) for rule, values in found.items()]
