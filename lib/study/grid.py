"""Which runs compare the catalogue, and which candidates for this study's own rule are tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import pruning
from ..pruning.registry import method
from ..pruning.staged import StagedPruner
from .evaluation import Family
from .labels import LABELS
from .methods import Method

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
        tail, deepest = f"a{tail_of(average)}", int(WHOLE * average * depth + 1e-9)
        for name in pruning.available():
            if (place := _place(name, depth, deepest)) is not None:
                runs[f"{name}-{tail}"] = name, {"average": average} | place
        there = min(2, deepest)
        for name in CONTROLS if there else ():
            runs[f"{name}-layer{there}-{tail}"] = name, {"average": average, "layer": there}
    return runs


def tail_of(average: float) -> str:
    """How slugs and groups name an average.

    >>> [tail_of(average) for average in AVERAGES]
    ['33', '22', '11']
    """
    return str(round(100 * average))


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


def catalogue(depth: int) -> dict[str, Method]:
    """The runs of `grid` as rows of the study; groups: "average", the share asked for in per cent.

    >>> catalogue(32)["random-layer2-a11"].label
    'RandomPrune, layer 2'
    """
    rows = {}
    for slug, (name, options) in grid(depth).items():
        label = LABELS.get(name, method(name).__name__)
        if "layer" in options and name in CONTROLS:
            label = f"{label}, layer {options['layer']}"
        rows[slug] = Method(label, name, options, {"average": slug.rsplit("-a", 1)[1]})
    return rows


def questions(table: Mapping[str, Method], metrics: Sequence[str]) -> list[Family]:
    """Every method against chance and against FastV, one family an average, rival and metric."""
    found = []
    for tail in dict.fromkeys(row.groups["average"] for row in table.values()):
        for rival in ("random", "fastv"):
            other = f"{rival}-a{tail}"
            own = [slug for slug, row in table.items() if row.groups["average"] == tail]
            pairs = tuple((slug, other) for slug in own if slug != other)
            if other in table and pairs:
                found += [Family(f"{other} {metric}", pairs, (metric,)) for metric in metrics]
    return found


def candidates() -> dict[str, Run]:
    """`{slug: (name, options)}` of what is tried as this study's own rule, without keep and layer.

    Coverage, entropy and volume weighted by attention in several ways, from attention alone to no
    attention at all ("plain"), and entropy with coverage as Table 1 has it. To be chosen among on
    photographs that are not reported, against FastV at the same layer.
    """

    def weighted(**options: Any) -> Run:
        return "weighted", {"cover": 1.0} | options

    found = {
        "selection": ("selection", {}),
        "cover-vision": weighted(source="vision"),
        "cover-relevance": weighted(relevance=1.0),
        "cover-relevance10": weighted(relevance=10.0),
        "cover-floor50": weighted(floor=0.5),
        "cover-mean-uniform30": weighted(attention="mean", uniform=0.3),
        "cover-mean-entropy10": weighted(attention="mean", entropy=0.1),
        "cover-mean-text": weighted(attention="mean", query="text"),
        "cover-square": weighted(power=2.0),
        "entropy-uniform50": weighted(cover=0.0, entropy=1.0, uniform=0.5),
        "volume-uniform50": weighted(cover=0.0, volume=1.0, uniform=0.5),
        "cover-entropy-uniform50": weighted(entropy=1.0, uniform=0.5),
    }
    sources = {
        "": {}, "-mean": {"attention": "mean"}, "-value": {"attention": "value"},
        "-text": {"query": "text"}, "-tower": {"attention": "tower"},
    }  # fmt: skip
    for tail, source in sources.items():
        found[f"cover{tail}"] = weighted(**source)
        found[f"cover{tail}-sqrt"] = weighted(**source, power=0.5)
        found[f"cover{tail}-uniform70"] = weighted(**source, uniform=0.7)
        found[f"attention{tail}"] = weighted(**source, cover=0.0, relevance=1.0)
    for tail, source in {"": {}, "-value": {"attention": "value"}}.items():
        found[f"entropy{tail}"] = weighted(**source, cover=0.0, entropy=1.0)
        found[f"volume{tail}"] = weighted(**source, cover=0.0, volume=1.0)
        found[f"cover{tail}-entropy"] = weighted(**source, entropy=1.0)
    plain = {"attention": "none"}
    found |= {
        "plain": weighted(**plain),
        "plain-vision": weighted(**plain, source="vision"),
        "plain-entropy": weighted(**plain, cover=0.0, entropy=1.0),
        "plain-volume": weighted(**plain, cover=0.0, volume=1.0),
        "plain-cover-entropy": weighted(**plain, entropy=1.0),
    }
    for share in (0.1, 0.25, 0.5, 0.75):
        found[f"plain-floor{share:.0%}".rstrip("%")] = weighted(uniform=1.0, floor=share)
    for share in (0.3, 0.6):
        tail = f"plain-entropy-floor{share:.0%}".rstrip("%")
        found[tail] = weighted(uniform=1.0, entropy=1.0, floor=share)
    return found
