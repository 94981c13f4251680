"""What the study compares: the rows of Table 1, and the keep rates beside them.

A criterion and the place where it prunes are two things, so every criterion has a row before the
language model and one at FastV's layer, and criteria are compared at one place only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import pruning
from .fitting import fits
from .labels import BEFORE, DEEP, LABELS, PAPER, SWEPT, percent
from .profiles import Profile

__all__ = ["FASTV_LAYER", "Method", "methods", "placed", "sweep", "swept", "table_1"]

#: Algorithm 1 with the paper's numbers, whatever the image: its Figure 5 keeps 21 of 256 tokens
PRINTED = {"n_clusters": 32, "core_clusters": 16, "tokens_per_cluster": 2, "count": "adaptive"}
FIGURE_5 = 21 / 256
#: before which language layer FastV prunes
FASTV_LAYER = 2
#: options of our own rule beside the method's defaults; what was tried is in `lib.study.grid`
OURS: dict[str, Any] = {}


@dataclass(frozen=True)
class Method:
    """A registered pruning method with its options; `name` None is the unpruned model.

    label: for tables and legends. groups: `{what it belongs to: label within it}`: the part of
    Table 1, or ablations.
    """

    label: str
    name: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)

    def create(self) -> Any:
        """The pruner, None for the unpruned model."""
        return None if self.name is None else pruning.create(self.name, **self.options)

    @property
    def about(self) -> dict[str, Any]:
        """What summaries say of it, as JSON has it."""
        return {
            "label": self.label,
            "method": self.name or "unpruned",
            "options": {k: list(v) if isinstance(v, tuple) else v for k, v in self.options.items()},
            "groups": dict(self.groups),
        }

    @property
    def settings(self) -> dict[str, Any]:
        """Name and every option as plain values, as manifests hold them."""
        pruner = self.create()
        return {"method": "unpruned"} if pruner is None else pruner.options()


def methods(profile: Profile) -> dict[str, Method]:
    """`{slug: method}` of Table 1, part by part, those that run on the profile's model.

    `PAPER`: the paper's rows, each where it was published to prune. "Entropy-Prune as printed" is
    Algorithm 1 with the paper's numbers, M = 32, k_c = 16, t_pc = 2, which keep 8 to 9 % of 256
    tokens; "Entropy-Prune" is what its table must mean, Algorithm 1 filled up to the budget.
    `BEFORE` and `DEEP`: the criteria at one place each, ours among them.
    """
    keep, tail = profile.keep, percent(profile.keep)
    table = {"unpruned": Method("Unpruned", None, {}, {"table": PAPER})}

    def add(slug: str, label: str, name: str, part: str, **options: Any) -> None:
        if fits(profile, name, **options):
            table[slug] = Method(label, name, options, {"table": part})

    for name in ("random", "tome", "fastv"):
        add(f"{name}-{tail}", LABELS[name], name, PAPER, keep=keep)
    add("entropy-printed", f"{LABELS['entropy']} as printed", "entropy", PAPER, **PRINTED)
    add(f"entropy-{tail}", LABELS["entropy"], "entropy", PAPER, keep=keep)
    add(f"fastv-mask-{tail}", "FastV by mask", "fastv", PAPER, keep=keep, mode="mask")
    share = f"RandomPrune, {percent(round(FIGURE_5, 3))} %, as Figure 5"
    add("random-printed", share, "random", PAPER, keep=FIGURE_5)
    for part, layer in ((BEFORE, 0), (DEEP, FASTV_LAYER)):
        for name, options in placed(layer).items():
            usual = layer == own_layer(name)
            slug = f"{name}-{tail}" if usual else f"{name}-layer{layer}-{tail}"
            if slug not in table:
                label = LABELS[name] if usual else f"{LABELS[name]}, layer {layer}"
                add(slug, label, name, part, keep=keep, **options)
    return table


def own_layer(name: str) -> int:
    """The layer before which a method prunes if nobody says otherwise."""
    return pruning.create(name).layer


def placed(layer: int) -> dict[str, dict[str, Any]]:
    """`{name: options}` of the criteria that can stand before a language layer.

    FastV's is the attention of the layer before; where there is none, our rule takes the vision
    tower's. An option that is a method's default is left out.
    """
    criteria: dict[str, dict[str, Any]] = {"random": {}, "fastv": {}, "entropy": {}}
    criteria |= {"selection": {}, "weighted": dict(OURS)}
    if layer == 0:
        del criteria["fastv"]
        looks = OURS.get("attention") != "none"
        criteria["weighted"] |= {"attention": "tower"} if looks else {}
        criteria["weighted"] |= {"source": "vision"}
    return {
        name: options if layer == own_layer(name) else {"layer": layer} | options
        for name, options in criteria.items()
        if name in pruning.available()
    }


def table_1(profile: Profile) -> list[str]:
    """The slugs of Table 1's first part: the paper's rows, the one as printed among them."""
    wanted = ("unpruned", "random", "tome", "fastv", "entropy-printed", "entropy")
    tail = percent(profile.keep)
    slugs = [s if s in ("unpruned", "entropy-printed") else f"{s}-{tail}" for s in wanted]
    return [slug for slug in slugs if slug in methods(profile)]


def swept(profile: Profile) -> dict[str, Method]:
    """`{slug: method}` of every keep rate of the sweep, in the group "sweep"; 1 is unpruned."""
    rates = sorted({*profile.sweep, profile.ablation_keep})
    return {"unpruned": Method("Unpruned", None, {}, {"sweep": "1"})} | {
        f"{name}-{percent(keep)}": Method(
            LABELS[name], name, {"keep": keep, **_usual(name)}, {"sweep": f"{keep:g}"}
        )
        for keep in rates
        for name in SWEPT
        if fits(profile, name, keep=keep)
    }


def _usual(name: str) -> dict[str, Any]:
    """Options of a criterion where it prunes if nobody says otherwise."""
    return dict(OURS) if name == "weighted" else {}


def sweep(profile: Profile) -> dict[str, Method]:
    """`{slug: method}` of the keep rates that Table 1 does not have."""
    main = methods(profile)
    return {slug: method for slug, method in swept(profile).items() if slug not in main}
