"""The other selections of `lib.selection` as pruning methods, to compare with Algorithm 1."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..selection import STRATEGIES
from .base import ImageTokens
from .states import StatePruner


@dataclass(eq=False, kw_only=True)
class SelectionPrune(StatePruner, name="selection"):
    """Keeps exactly `budget(N)` tokens, chosen by a strategy of `lib.selection.STRATEGIES`.

    The default, "adaptive", is this study's own: entropy where tokens are plenty, coverage where
    they are few. The strategy sees one layer, the last of `layers` (default: the layer of the
    vision tower that the projector reads).
    """

    strategy: str = "adaptive"
    random_state: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of(strategy=tuple(STRATEGIES))

    def select(self, images: ImageTokens) -> Tensor:
        return STRATEGIES[self.strategy](
            self.layer_states(images)[-1],
            self.budget(images.tokens),
            random_state=self.random_state,
            check=False,
        )
