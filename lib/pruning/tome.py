"""ToMe: merge similar tokens inside the vision tower (arXiv 2210.09461)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..merging import Merged, merge, schedule
from .in_tower import InTower


@dataclass(eq=False, kw_only=True)
class ToMe(InTower, name="tome"):
    """Merges tokens in every block of the CLIP tower, between attention and MLP.

    As published: the metric is the keys' mean over heads, even and odd tokens are matched, sizes
    weight the averages, attention is proportional (log of the size is added to the logits) and
    the class token is protected. r per block follows from `keep`, so the count is exact; blocks
    behind the feature layer are left alone. Merged tokens go to the language model in raster
    order, at the position of the token the others were merged into; `kept` names these positions.
    """

    def reductions(self, tokens: int, depth: int, used: int) -> list[int]:
        return schedule(tokens, self.budget(tokens), used)

    def reduce(self, hidden: Tensor, state: Merged, made: dict[str, Tensor], r: int) -> Merged:
        metric = made["k"].unflatten(-1, (self.heads, -1)).mean(2)
        return merge(hidden, metric, state.sizes, state.positions, r)
