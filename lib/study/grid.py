"""Which runs compare the catalogue, and which candidates for this study's own rule are tried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import pruning
from ..pruning.registry import method
from ..pruning.staged import StagedPruner

#: average visual tokens a layer, as shares: 192, 128 and 64 of LLaVA-1.5's 576
AVERAGES = (1 / 3, 2 / 9, 1 / 9)
#: methods that look at the vision tower by default, and what they are called at FastV's layer, too
CONTROLS = ("random", "entropy", "selection")
#: layers that see every token may take this much of the average
WHOLE = 0.6

Run = tuple[str, dict[str, Any]]


def grid(depth: int, averages: Sequence[float] = AVERAGES) -> dict[str, Run]:
    """`{slug: (name, options)}`: every registered method at equal average tokens a layer.

    depth: layers of the language model. Methods prune where they were published to, but not so deep
    that the layers before it take more than 60 % of the tokens that the average leaves; those that
    need a layer before them are left out where not even one fits. The controls stand before the
    language model and at FastV's layer.

    >>> grid(32)["fastv-a33"], grid(32)["pyramiddrop-a11"][1]["layer"]
    (('fastv', {'average': 0.3333333333333333}), 2)
    """
    runs: dict[str, Run] = {}
    for average in averages:
        tail, deepest = f"a{round(100 * average)}", int(WHOLE * average * depth + 1e-9)
        for name in pruning.available():
            if (place := _place(name, depth, deepest)) is not None:
                runs[f"{name}-{tail}"] = name, {"average": average} | place
        there = min(2, deepest)
        for name in CONTROLS if there else ():
            runs[f"{name}-layer{there}-{tail}"] = name, {"average": average, "layer": there}
    return runs


def _place(name: str, depth: int, deepest: int) -> dict[str, int] | None:
    """The layer to ask for, where it is not the method's own; None if there is none."""
    kind = method(name)
    pruner = kind()
    if issubclass(kind, StagedPruner):
        first = pruner.stage_counts(576, depth)[0][0]
        if first <= deepest:
            return {}
        return {"layer": deepest} if deepest >= max(1, kind.earliest) else None
    if pruner.layer <= deepest:
        return {}
    return {"layer": deepest} if deepest >= max(1, kind.first_layer) else None


def candidates() -> dict[str, Run]:
    """`{slug: (name, options)}` of what is tried as this study's own rule, without keep and layer.

    Coverage, entropy and volume weighted by attention in several ways; "plain" ones weigh nothing,
    but give part of the budget to attention first. To be chosen among on photographs that are not
    reported, against FastV at the same layer.
    """

    def weighted(**options: Any) -> Run:
        return "weighted", {"cover": 1.0} | options

    mean, plain = {"attention": "mean"}, {"uniform": 1.0}
    return {
        "cover": weighted(),
        "cover-mean": weighted(**mean),
        "cover-text": weighted(query="text"),
        "cover-mean-text": weighted(**mean, query="text"),
        "cover-value": weighted(attention="value"),
        "cover-vision": weighted(source="vision"),
        "cover-mean-uniform30": weighted(**mean, uniform=0.3),
        "cover-sqrt": weighted(power=0.5),
        "cover-square": weighted(power=2.0),
        "cover-mean-entropy10": weighted(**mean, entropy=0.1),
        "cover-entropy": weighted(entropy=1.0),
        "cover-relevance": weighted(relevance=1.0),
        "cover-relevance10": weighted(relevance=10.0),
        "cover-floor50": weighted(floor=0.5),
        "plain-floor50": weighted(**plain, floor=0.5),
        "plain-floor75": weighted(**plain, floor=0.75),
        "plain-entropy-floor30": weighted(**plain, entropy=1.0, floor=0.3),
        "plain-entropy-floor60": weighted(**plain, entropy=1.0, floor=0.6),
        "entropy": weighted(cover=0.0, entropy=1.0),
        "volume": weighted(cover=0.0, volume=1.0),
    }
