"""The other selections of `lib.selection` as pruning methods, to compare with Algorithm 1."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from torch import Tensor

from ..selection import STRATEGIES
from .engine.graphs import graphs
from .states import StatePruner


@dataclass(eq=False, kw_only=True)
class SelectionPrune(StatePruner, name="selection"):
    """Keeps exactly `budget(N)` tokens, chosen by a strategy of `lib.selection.STRATEGIES`.

    The default, "adaptive", is this study's own: entropy where tokens are plenty, coverage where
    they are few. The strategy sees one layer, the last of `layers` (default: the layer of the
    vision tower that the projector reads). cover: weight of coverage in "adaptive".
    """

    strategy: str = "adaptive"
    cover: float = 1.0
    random_state: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of(strategy=tuple(STRATEGIES))
        if not self.cover >= 0:
            raise ValueError(f"cover must be at least 0, got {self.cover}")

    @property
    def long(self) -> bool:
        return self.strategy in ("adaptive", "greedy", "dpp")  # whose picks take a round each

    def rank(self, states: list[Tensor]) -> Tensor:
        return self.rank_of(states, self.budget(states[-1].shape[-2]))

    def rank_of(self, states: list[Tensor], budget: int) -> Tensor:
        # On CUDA a repeated call replays a captured graph: everything but the states is in the key.
        key = (type(self), budget, self.strategy, self.cover, self.random_state)
        return graphs(key, functools.partial(self._select, keep=budget), states[-1:])

    def _select(self, states: list[Tensor], *, keep: int | None = None) -> Tensor:
        keep = keep or self.budget(states[-1].shape[-2])
        options = {"cover": self.cover} if self.strategy == "adaptive" else {}
        return STRATEGIES[self.strategy](
            states[-1], keep, random_state=self.random_state, check=False, **options
        )
