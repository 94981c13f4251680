"""Operations that a method spends on choosing, for one image, a multiply-add as two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...geometry import kept_count
from ...pruning import create
from ...selection import proportions
from .flops import Shape
from .scorers import EIGEN, SCORERS
from .tower_scorers import TOWER_SCORERS

#: quadrature points of exact leave-one-out in float32, and of the adaptive rule's entropy gain
NODES, ADAPTIVE_NODES = 24, 8
#: rounds of k-means at most
LLOYD = 20
#: layers that a method looks at unless told
DEPTH = {"entropy": 4, "selection": 1}


def scorer_flops(shape: Shape, options: Mapping[str, Any], text: int = 0) -> float:
    """Operations of choosing for one image; `options` are `pruner.options()`.

    text: positions of the prompt that are not visual, for methods that look at them.

    Gram matrices of the layers it looks at, k-means in Gram space, the eigen-decomposition of each
    Gram and the quadrature of exact leave-one-out, the incremental Cholesky factors of a greedy
    rule and its coverage. FastV: one row of attention. ToMe's similarities are part of
    `lib.study.cost.flops.vision_flops`. What costs n² once is left out. The catalogue's methods
    have counts of their own in `lib.study.cost.scorers` and `tower_scorers`.
    """
    n, method = shape.visual_tokens, options["method"]
    pruner = create(method, **{k: v for k, v in options.items() if k != "method"})
    schedule = pruner.stage_counts(n, shape.layers)
    if (count := (SCORERS | TOWER_SCORERS).get(method)) is not None:
        return count(shape, options, [n, *(left for _, left in schedule)], text)
    if method == "fastv":
        return 2.0 * n * shape.width if options["layer"] else 0.0
    if method not in DEPTH:
        return 0.0
    width = shape.width if options["source"] == "language" else shape.vision_width
    layers = _layers(options)
    k = schedule[-1][1] if pruner.exact else kept_count(options["keep"], n)
    if method == "selection":
        return _strategy(options, n, k, width)
    gram = 2.0 * n**2 * width * layers
    if options["level"] == "token":
        quadrature = 2.0 * n**2 * (NODES if layers == 1 else 1)
        return gram + layers * (EIGEN * n**3 + quadrature)
    named = ("n_clusters", "core_clusters", "tokens_per_cluster")
    clusters, *_ = proportions(n, k, **{name: options[name] for name in named})
    return gram + _clustering(n, clusters, layers)


def _layers(options: Mapping[str, Any]) -> int:
    """How many layers a method looks at; fewer than it would like exist before language layer K."""
    if options["layers"]:
        first, last = options["layers"]
        if (first < 0) == (last < 0):
            return last - first + 1
    wanted = DEPTH[options["method"]]
    return min(wanted, options["layer"] + 1) if options["source"] == "language" else wanted


def _clustering(n: int, clusters: int, layers: int) -> float:
    """Algorithm 1: k-means on one layer's Gram, the scores of every layer's centroids."""
    lloyd = LLOYD * 2.0 * n**2 * clusters
    centroids = layers * 2.0 * (n**2 * clusters + n * clusters**2)
    scores = layers * (EIGEN * clusters**3 + 2.0 * clusters**2 * NODES)
    return lloyd + centroids + scores


def _strategy(options: Mapping[str, Any], n: int, k: int, width: int) -> float:
    """One of `lib.selection.STRATEGIES` on one layer."""
    name, gram = options["strategy"], 2.0 * n**2 * width
    if name == "random":
        return 0.0
    if name == "renyi2-greedy":
        return gram + 2.0 * n * k
    if name == "one-shot":
        return gram + EIGEN * n**3 + 2.0 * n**2 * NODES
    if name in ("algorithm-1", "k-medoids"):
        return gram + _clustering(n, proportions(n, k)[0] if name == "algorithm-1" else k, 1)
    nodes = {"dpp": 1, "greedy": NODES, "adaptive": ADAPTIVE_NODES}[name]
    cholesky = nodes * float(n) * k**2  # each of k picks is compared with those before it
    # what a token would add to the nearest kept one of every other: subtract, clamp, add up
    coverage = 3.0 * k * n**2 if name == "adaptive" and options["cover"] else 0.0
    return gram + cholesky + coverage
