"""What methods that look at the vision tower spend on choosing, by method: see `scorers`.

What ToMe and PPT do between the tower's blocks, and a smaller picture, is work of the tower and is
counted with it (`lib.study.cost.flops.vision_flops`); a uniform grid chooses without looking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .flops import Shape

Scorer = Callable[[Shape, Mapping[str, Any], Sequence[int], int], float]


def _row(shape: Shape, n: int) -> float:
    """What the class token pays every patch, heads side by side."""
    return 2.0 * n * shape.vision_width


def _cosines(shape: Shape, n: int) -> float:
    """All pairs of the tower's states."""
    return 2.0 * n**2 * shape.vision_width


def _projector(shape: Shape, made: float) -> float:
    """New tokens of merged features: two layers."""
    return 2.0 * made * (shape.vision_width * shape.width + shape.width**2)


def _coverage(rows: float, n: int, k: int) -> float:
    """Of k picks each: subtract, clamp and add up, all rows for all tokens."""
    return 3.0 * k * rows * n


def _fastervlm(shape: Shape, options: Mapping[str, Any], seen: Sequence[int], text: int) -> float:
    return _row(shape, seen[0])


def _vispruner(shape: Shape, options: Mapping[str, Any], seen: Sequence[int], text: int) -> float:
    return _row(shape, seen[0]) + _cosines(shape, seen[0])


def _scope(shape: Shape, options: Mapping[str, Any], seen: Sequence[int], text: int) -> float:
    n, k = seen[0], seen[-1]
    return _vispruner(shape, options, seen, text) + _coverage(n, n, k)


def _rollout(shape: Shape, options: Mapping[str, Any], seen: Sequence[int], text: int) -> float:
    """All attention of every block but the last, and the product of all of it."""
    n, blocks = seen[0] + 1, shape.vision_layers - 1
    return blocks * 2.0 * n**2 * shape.vision_width + (blocks - 1) * 2.0 * n**3


def _divprune(shape: Shape, options: Mapping[str, Any], seen: Sequence[int], text: int) -> float:
    n, k = seen[0], seen[-1]
    return 2.0 * n**2 * shape.width + 2.0 * k * n


def _cdpruner(shape: Shape, options: Mapping[str, Any], seen: Sequence[int], text: int) -> float:
    """The kernel, a cosine to the mean of the prompt, and a Cholesky factor row by row."""
    n, k = seen[0], seen[-1]
    asked = 2.0 * n * shape.width if options["relevance"] != "none" else 0.0
    return 2.0 * n**2 * shape.width + asked + float(n) * k**2


def _mmtok(shape: Shape, options: Mapping[str, Any], seen: Sequence[int], text: int) -> float:
    n, k = seen[0], seen[-1]
    products = _cosines(shape, n) + 2.0 * text * n * shape.width
    return products + _coverage(n + text, n, k)


def _visionzip(shape: Shape, options: Mapping[str, Any], seen: Sequence[int], text: int) -> float:
    """Targets compared with what is left by one mean head of 64, their sums, and their tokens."""
    n, k = seen[0], seen[-1]
    few = min(int(k * options["contextual"] + 0.5), k - 1)
    rest = n - k
    sums = 2.0 * few * rest * (64 + shape.vision_width)
    made = few + bool(options["class_token"])
    return _row(shape, n) + sums + _projector(shape, made)


def _prumerge(shape: Shape, options: Mapping[str, Any], seen: Sequence[int], text: int) -> float:
    """Each kept token's cosines to all, its weighted sum, and its new token."""
    n, k = seen[0], seen[-1]
    merged = 4.0 * k * n * shape.vision_width
    return _row(shape, n) + merged + _projector(shape, k)


def _tokencorr(shape: Shape, options: Mapping[str, Any], seen: Sequence[int], text: int) -> float:
    n, k = seen[0], seen[-1]
    found = 2 * _row(shape, n) + _cosines(shape, n)
    if options["merge"] == "none":
        return found
    return found + 2.0 * k * n * shape.vision_width + _projector(shape, k)


def _pool(shape: Shape, options: Mapping[str, Any], seen: Sequence[int], text: int) -> float:
    return 2.0 * seen[0] * seen[-1] * shape.width


def _llavolta(shape: Shape, options: Mapping[str, Any], seen: Sequence[int], text: int) -> float:
    return 1.0 * seen[0] * shape.width


TOWER_SCORERS: dict[str, Scorer] = {
    "cdpruner": _cdpruner,
    "divprune": _divprune,
    "fastervlm": _fastervlm,
    "hired": _fastervlm,
    "llavolta": _llavolta,
    "mmtok": _mmtok,
    "pool": _pool,
    "prumerge": _prumerge,
    "rollout": _rollout,
    "scope": _scope,
    "tokencorr": _tokencorr,
    "visionzip": _visionzip,
    "vispruner": _vispruner,
}
"""Name of a registered method → its count."""
