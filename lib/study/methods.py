"""What the study compares: the rows of Table 1, their variants, and the ablations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import pruning
from ..geometry import feature_layer, kept_count, patches
from ..selection import STRATEGIES, proportions
from .fitting import fits
from .labels import LABELS, SWEPT, TABLE_1, percent
from .profiles import Profile

#: model types whose images all have as many tokens, so that a number of clusters fits all of them
OF_ONE_SIZE = ("llava",)
#: a number of tokens for the others, where shares of it are meant
MANY = 1000

__all__ = ["Method", "ablations", "methods", "sweep", "table_1"]


@dataclass(frozen=True)
class Method:
    """A registered pruning method with its options; `name` None is the unpruned model.

    label: for tables and legends. groups: `{ablation: label within it}`.
    """

    label: str
    name: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)

    def create(self) -> Any:
        """The pruner, None for the unpruned model."""
        return None if self.name is None else pruning.create(self.name, **self.options)

    @property
    def settings(self) -> dict[str, Any]:
        """Name and every option as plain values, as manifests hold them."""
        pruner = self.create()
        return {"method": "unpruned"} if pruner is None else pruner.options()


def methods(profile: Profile) -> dict[str, Method]:
    """`{slug: method}` of Table 1 and its variants, those that are registered."""
    keep, tail = profile.keep, percent(profile.keep)
    table = {"unpruned": Method("Unpruned", None)}
    for name, label in LABELS.items():
        table[f"{name}-{tail}"] = Method(label, name, {"keep": keep})
    # the paper's t_pc: nothing fills up small clusters here, so more from each would leave fewer
    adaptive = {"keep": keep, "count": "adaptive", "tokens_per_cluster": 2}
    table[f"entropy-adaptive-{tail}"] = Method("Entropy-Prune, adaptive count", "entropy", adaptive)
    # two layers already mix the visual tokens: chance at that layer is the control for the others
    deep = {"keep": keep, "layer": 2}
    table[f"random-layer2-{tail}"] = Method("RandomPrune at FastV's layer", "random", deep)
    table[f"entropy-layer2-{tail}"] = Method("Entropy-Prune at FastV's layer", "entropy", deep)
    table[f"selection-layer2-{tail}"] = Method(
        "Entropy + coverage at FastV's layer", "selection", deep
    )
    return {
        slug: method
        for slug, method in table.items()
        if method.name is None or fits(profile, method.name, **method.options)
    }


def table_1(profile: Profile) -> list[str]:
    """The slugs of Table 1's five rows."""
    slugs = [name if name == "unpruned" else f"{name}-{percent(profile.keep)}" for name in TABLE_1]
    return [slug for slug in slugs if slug in methods(profile)]


def sweep(profile: Profile) -> dict[str, Method]:
    """`{slug: method}` of the keep rates beside Table 1's, of the methods it has."""
    rates = sorted({*profile.sweep, profile.ablation_keep} - {profile.keep})
    names = [name for name in SWEPT if f"{name}-{percent(profile.keep)}" in methods(profile)]
    return {
        f"{name}-{percent(keep)}": Method(LABELS[name], name, {"keep": keep})
        for keep in rates
        for name in names
    }


def ablations(profile: Profile, config: Any) -> dict[str, Method]:
    """`{slug: method}` of all ablations of a model with this configuration.

    Each entry differs from Entropy-Prune at `ablation_keep` in one respect, or belongs to the sweep
    of keep rates. One entry can serve several groups.
    """
    table = _Table(profile)
    _rates(table, profile)
    if config.model_type in OF_ONE_SIZE:
        _clusters(table, patches(config))
    else:
        _shares(table)
    _layers(table, _last_layer(config))
    deep = min(2, config.get_text_config().num_hidden_layers - 1)
    table.vary("layers", "language", f"language 0–{deep}", source="language", layer=deep)
    table.vary("rollout", None, "scaled (I + H/L)")
    table.vary("rollout", "literal", "literal (I + H)", rollout="literal")
    table.vary("rollout", "scores", "scores (1 + S)", rollout="scores")
    table.vary("weighting", None, "unit")
    table.vary("weighting", "mass", "mass", weighting="mass")
    table.vary("weighting", "tokensum", "token-sum", weighting="token-sum")
    table.vary("level", None, "cluster, exact count")
    table.vary("level", "adaptive", "cluster, adaptive count", count="adaptive")
    table.vary("level", "token", "token", level="token")
    _places(table, deep)
    _strategies(table)
    return table.rows


def _last_layer(config: Any) -> int:
    """The hidden state of the vision tower that the visual tokens are made of."""
    if hasattr(config, "vision_feature_layer"):
        return feature_layer(config)
    vision = config.vision_config
    return getattr(vision, "depth", None) or vision.num_hidden_layers


class _Table:
    """Ablations as they are added: a setting that is there already joins another group."""

    def __init__(self, profile: Profile) -> None:
        self.profile, self.keep = profile, profile.ablation_keep
        self.tail = percent(self.keep)
        self.rows = {"unpruned": Method("Unpruned", None, {}, {"sweep": "1"})}

    def add(self, slug: str, label: str, name: str, group: str, value: str, **options: Any) -> None:
        """One entry, if its method runs on the model."""
        options = {"keep": self.keep, **options}
        if fits(self.profile, name, **options):
            groups = dict(self.rows[slug].groups) if slug in self.rows else {}
            self.rows[slug] = Method(label, name, options, groups | {group: value})

    def vary(self, group: str, slug: str | None, value: str, **options: Any) -> None:
        """One entry of an ablation of Entropy-Prune; `slug` None is the default setting."""
        full = f"entropy-{slug}-{self.tail}" if slug else f"entropy-{self.tail}"
        self.add(full, LABELS["entropy"], "entropy", group, value, **options)


def _rates(table: _Table, profile: Profile) -> None:
    for share in sorted({*profile.sweep, profile.ablation_keep}):
        for name in SWEPT:
            slug = f"{name}-{percent(share)}"
            table.add(slug, LABELS[name], name, "sweep", f"{share:g}", keep=share)


def _clusters(table: _Table, tokens: int) -> None:
    """Numbers of clusters M, core clusters k_c and tokens from each, t_pc, for one budget."""
    budget = kept_count(table.keep, tokens)
    standard = proportions(tokens, budget)
    _, usual_cores, usual = standard
    numbers = {(min(tokens, int(f * usual_cores)), usual_cores, usual) for f in (1.5, 2, 3)}
    numbers |= {proportions(tokens, budget, tokens_per_cluster=t) for t in (1, 2, 4)}
    names = ("n_clusters", "core_clusters", "tokens_per_cluster")
    for setting in sorted(numbers, key=lambda n: (n[2], n[0])):
        clusters, cores, each = setting
        if clusters >= cores:
            slug = None if setting == standard else f"m{clusters}-k{cores}-t{each}"
            options = {} if setting == standard else dict(zip(names, setting))
            table.vary("clusters", slug, f"M={clusters}, k_c={cores}, t_pc={each}", **options)


def _shares(table: _Table) -> None:
    """Tokens from each core cluster, t_pc, for one share of images of any size."""
    usual = proportions(MANY, kept_count(table.keep, MANY))[2]
    for each in (1, 2, 4):
        slug, options = f"t{each}", {"tokens_per_cluster": each}
        if each == usual:
            slug, options = None, {}
        table.vary("clusters", slug, f"t_pc={each}, M and k_c by the image", **options)


def _layers(table: _Table, last: int) -> None:
    """Ranges of vision layers that end at the projector's."""
    firsts = {last, last - 1, last - 3, last // 2, 0}
    for first in sorted((f for f in firsts if f >= 0), reverse=True):
        usual = first == max(0, last - 3)
        slug = None if usual else f"layers{first}-{last}"
        options = {} if usual else {"layers": (first, last)}
        table.vary("layers", slug, f"vision {first}–{last}", **options)


def _places(table: _Table, deep: int) -> None:
    """FastV prunes at layer 2, after two layers have read every token: the others there, too."""
    tail = table.tail
    for name in ("random", "entropy", "selection"):
        label = LABELS[name]
        table.add(f"{name}-{tail}", label, name, "place", f"{label}, layer 0")
        there = f"{label}, layer {deep}"
        table.add(f"{name}-layer{deep}-{tail}", there, name, "place", there, layer=deep)
    if deep == 2:
        table.add(f"fastv-{tail}", LABELS["fastv"], "fastv", "place", "FastV, layer 2")


def _strategies(table: _Table) -> None:
    for strategy in STRATEGIES:
        usual = strategy == "adaptive"
        slug = f"selection-{table.tail}" if usual else f"selection-{strategy}-{table.tail}"
        label = LABELS["selection"] if usual else strategy
        options = {} if usual else {"strategy": strategy}
        table.add(slug, label, "selection", "strategy", strategy, **options)
