"""FasterVLM: keep the tokens that the vision tower's class token attends to most."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..selection import top_k
from .engine.pieces import Piece
from .tower_rule import TowerRule, by_attention


@dataclass(eq=False, kw_only=True)
class FasterVLM(TowerRule, name="fastervlm"):
    """Ranks by the class token's attention in the block whose output the projector reads.

    arXiv 2412.01818 (first version); Theia-4869/FasterVLM @f5d5f12. Mean over heads, softmax over
    all keys, raster order. LLaVA-NeXT: T / tiles tokens of every tile.

    Deviations: what is odd in T / tiles goes to the first tiles, so that the count is exact; the
    model's own packing stays (the code drops unpadding and newlines). Towers without a class token
    rank by the mean attention that a token receives.
    """

    def watch(self) -> None:
        self.watch_attention()

    def pick(self, piece: Piece) -> Tensor:
        return top_k(by_attention(self.attention(piece)), piece.quota, check=False)
