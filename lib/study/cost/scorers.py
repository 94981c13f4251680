"""What the catalogue's methods spend on choosing, by method: operations, a multiply-add as two.

Each function takes the model's shape, the options of a pruner, the visual tokens of an image before
its first stage and behind each, and the text beside them, which is taken to stand behind the image.
Element-wise work on all states counts one operation an element and step; what costs n a time is
left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ...pruning.recycling import recycled_count
from .flops import Shape

#: operations of a symmetric eigen-decomposition over n³
EIGEN = 9.0
#: quadrature points of exact leave-one-out in float64, and of the greedy rules' entropy
ONE_SHOT_NODES, GREEDY_NODES = 40, 8

Scorer = Callable[[Shape, Mapping[str, Any], Sequence[int], int], float]


def _rows(shape: Shape, queries: float, keys: float) -> float:
    """Rows of attention from queries and keys that are there: one product."""
    return 2.0 * queries * keys * shape.width


def _key_width(shape: Shape) -> float:
    return shape.width * shape.kv_heads / shape.heads


def _pyramiddrop(shape: Shape, options: Mapping[str, Any], seen: Sequence[int], text: int) -> float:
    """At each stage the next layer's keys of all tokens, its query of the last, and one row."""
    total = 0.0
    for n in seen[:-1]:
        length = n + text
        total += 2.0 * length * shape.width * _key_width(shape) + 2.0 * shape.width**2
        total += _rows(shape, 1, length)
    return total


def _sparsevlm(shape: Shape, options: Mapping[str, Any], seen: Sequence[int], text: int) -> float:
    """Raters by one product of embeddings; rows of all text, and clusters, at each stage."""
    total = 2.0 * seen[0] * text * shape.width
    for n, after in pairwise(seen):
        total += _rows(shape, text, n + text) + text * (n + text) * shape.heads
        if options["version"] == "2":
            total += 2.0 * text * (n + text) * shape.width / shape.heads
        if options["recycle"]:
            chosen, clusters = recycled_count(n - after)
            total += 3.0 * chosen**2 * shape.width + 2.0 * clusters * chosen * shape.width
    return total


def _v2drop(shape: Shape, options: Mapping[str, Any], seen: Sequence[int], text: int) -> float:
    return 3.0 * shape.width * sum(seen[:-1])


def _head_entropy(
    shape: Shape, options: Mapping[str, Any], seen: Sequence[int], text: int
) -> float:
    """A Gram matrix over heads and its eigenvalues for each token."""
    return seen[0] * (2.0 * shape.heads * shape.width + EIGEN * shape.heads**3)


def _dart(shape: Shape, options: Mapping[str, Any], seen: Sequence[int], text: int) -> float:
    """Sizes of all keys, and a cosine to each pivot for each token."""
    pivots = options["visual_pivots"] + options["text_pivots"]
    return (seen[0] + text) * _key_width(shape) + 2.0 * pivots * seen[0] * shape.width


def _topv(shape: Shape, options: Mapping[str, Any], seen: Sequence[int], text: int) -> float:
    """Distances of all pairs, and sums of exponentials over them, two an iteration and one last."""
    n = seen[0]
    return 2.0 * n**2 * shape.width + 3.0 * n**2 * (2 * options["iterations"] + 1)


def _priortr(shape: Shape, options: Mapping[str, Any], seen: Sequence[int], text: int) -> float:
    return _rows(shape, text, seen[0] + text)


def _weighted(shape: Shape, options: Mapping[str, Any], seen: Sequence[int], text: int) -> float:
    """Rows of attention, the cosines of all pairs, and what each pick updates."""
    n, k = seen[0], seen[-1]
    width = shape.width if options["source"] == "language" else shape.vision_width
    queries = 1 if options["query"] == "last" else text
    layers = {"mean": options["layer"], "last": 1, "value": 1}.get(options["attention"], 0)
    total = layers * _rows(shape, queries, n + text) + 2.0 * n**2 * width
    if options["form"] == "one-shot":
        spectral = bool(options["entropy"]) + bool(options["volume"])
        return total + spectral * (EIGEN * n**3 + 2.0 * n**2 * ONE_SHOT_NODES)
    if options["cover"]:
        total += 4.0 * k * n**2  # subtract, clamp, and a product with the weights
    nodes = GREEDY_NODES * bool(options["entropy"]) + bool(options["volume"])
    return total + nodes * float(n) * k**2


SCORERS: dict[str, Scorer] = {
    "dart": _dart,
    "head-entropy": _head_entropy,
    "priortr": _priortr,
    "pyramiddrop": _pyramiddrop,
    "sparsevlm": _sparsevlm,
    "topv": _topv,
    "v2drop": _v2drop,
    "weighted": _weighted,
}
"""Name of a registered method → its count."""
