"""The ablations: Entropy-Prune and our own rule, one choice at a time."""

from __future__ import annotations

from typing import Any

from ..geometry import feature_layer, kept_count, patches
from ..selection import STRATEGIES, proportions
from .fitting import fits
from .labels import LABELS, percent
from .methods import FASTV_LAYER, Method, swept
from .profiles import Profile

__all__ = ["ablations"]

#: model types whose images all have as many tokens, so that a number of clusters fits all of them
OF_ONE_SIZE = ("llava",)
#: a number of tokens for the others, where shares of it are meant
MANY = 1000


def ablations(profile: Profile, config: Any) -> dict[str, Method]:
    """`{slug: method}` of all ablations of a model with this configuration.

    Each entry differs from Entropy-Prune (or, among the strategies, from entropy + coverage) at
    `ablation_keep` in one respect, or belongs to the sweep of keep rates. One entry can serve
    several groups.
    """
    table = _Table(profile)
    if config.model_type in OF_ONE_SIZE:
        _clusters(table, patches(config))
    else:
        _shares(table)
    _layers(table, _last_layer(config))
    deep = min(FASTV_LAYER, config.get_text_config().num_hidden_layers - 1)
    table.vary(
        "layers", "language", f"language 0–{deep}, pruned there", source="language", layer=deep
    )
    table.vary("rollout", None, "literal (I + H), as printed")
    table.vary("rollout", "scaled", "scaled (I + H/L)", rollout="scaled")
    table.vary("rollout", "scores", "scores (1 + S)", rollout="scores")
    table.vary("tokens", None, "raw (eq. 4)")
    table.vary("tokens", "unit", "unit", cluster_on="unit")
    table.vary("weighting", None, "unit")
    table.vary("weighting", "mass", "mass", weighting="mass")
    table.vary("weighting", "tokensum", "token-sum", weighting="token-sum")
    table.vary("level", None, "cluster, exact count")
    table.vary("level", "adaptive", "cluster, adaptive count", count="adaptive")
    table.vary("level", "token", "token", level="token")
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
        self.profile = profile
        self.keep, self.tail = profile.ablation_keep, percent(profile.ablation_keep)
        self.rows = swept(profile)

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


def _strategies(table: _Table) -> None:
    for strategy in STRATEGIES:
        usual = strategy == "adaptive"
        slug = f"selection-{table.tail}" if usual else f"selection-{strategy}-{table.tail}"
        label = LABELS["selection"] if usual else strategy
        options = {} if usual else {"strategy": strategy}
        table.add(slug, label, "selection", "strategy", strategy, **options)
