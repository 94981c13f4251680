"""Entropy-Prune: keep the tokens whose removal would cost the most matrix entropy."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..selection import hierarchical, proportions, token_level
from .engine.count import OwnCount
from .engine.graphs import graphs
from .states import StatePruner


@dataclass(eq=False, kw_only=True)
class EntropyPrune(OwnCount, StatePruner, name="entropy"):
    """Algorithm 1 of the paper on the matrix entropy of several layers, merged by rollout.

    source, layers: whose hidden states are ranked, see `StatePruner`; by default the four layers
        of the vision tower up to the one the projector reads.
    level: "cluster" is Algorithm 1; "token" ranks single tokens by exact leave-one-out.
    count: "exact" keeps `budget(N)` tokens, filled from the core clusters by their distance to
        the centroid; "adaptive" is the paper's dynamic count, at most k_c * t_pc.
    n_clusters, core_clusters, tokens_per_cluster: M, k_c and t_pc; those left out follow from the
        number of tokens and the budget, see `lib.selection.proportions`. An image with fewer tokens
        than M has as many clusters.
    rollout: "literal" (eq. 6), "scaled" (I + H/L) or "scores"; see `lib.rollout`.
    cluster_on: "raw", the tokens themselves (eq. 4), or "unit"; see `lib.selection.hierarchical`.
    weighting: how a centroid counts, see `lib.selection.hierarchical`.
    """

    level: Literal["cluster", "token"] = "cluster"
    count: Literal["exact", "adaptive"] = "exact"
    n_clusters: int | None = None
    core_clusters: int | None = None
    tokens_per_cluster: int | None = None
    rollout: Literal["literal", "scaled", "scores"] = "literal"
    cluster_on: Literal["raw", "unit"] = "raw"
    weighting: Literal["unit", "mass", "token-sum"] = "unit"
    random_state: int = 0

    depth = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of(
            level=("cluster", "token"), count=("exact", "adaptive"), cluster_on=("raw", "unit")
        )
        if self.level == "token" and self.count == "adaptive":
            raise ValueError("level='token' has no adaptive count; use count='exact'")
        for name in ("n_clusters", "core_clusters", "tokens_per_cluster"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")

    #: what `_select` depends on
    _options = (
        "keep", "level", "count", "n_clusters", "core_clusters", "tokens_per_cluster", "rollout",
        "cluster_on", "weighting", "random_state",
    )  # fmt: skip

    @property
    def keeps_all(self) -> bool:
        return self.keep == 1 and (self.exact or self.core_clusters is None)

    def at_most(self, tokens: int) -> int:
        _, cores, per_cluster = self._numbers(tokens, self.budget(tokens))
        return min(tokens, cores * per_cluster)

    def rank(self, states: list[Tensor]) -> Tensor:
        return self.rank_of(states, self.budget(states[-1].shape[-2]))

    def rank_of(self, states: list[Tensor], budget: int) -> Tensor:
        # On CUDA a repeated call replays a captured graph: everything but the states is in the key.
        options = tuple(getattr(self, name) for name in self._options)
        select = functools.partial(self._select, keep=budget)
        return graphs((type(self), options, budget), select, states)

    def _numbers(self, size: int, keep: int) -> tuple[int, int, int]:
        clusters, cores, each = proportions(
            size, keep, n_clusters=self.n_clusters, core_clusters=self.core_clusters,
            tokens_per_cluster=self.tokens_per_cluster,
        )  # fmt: skip
        return min(clusters, size), min(cores, size), each

    def _select(self, states: list[Tensor], *, keep: int | None = None) -> Tensor:
        keep = keep or self.budget(states[-1].shape[-2])
        tokens, size = states[-1], states[-1].shape[-2]
        layers = states if len(states) > 1 else None
        if self.level == "token":
            return token_level(tokens, keep, layers=layers, rollout=self.rollout, check=False)
        return hierarchical(
            tokens,
            *self._numbers(size, keep),
            layers=layers,
            rollout=self.rollout,
            budget=keep if self.exact else "adaptive",
            weighting=self.weighting,
            cluster_on=self.cluster_on,
            random_state=self.random_state,
            check=False,
        ).mask
