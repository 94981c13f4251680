"""SCOPE: cover all tokens, weighting the gain by what the class token attends to."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..entropy import unit_tokens
from ..selection import facility_location
from .engine.pieces import Piece
from .tower_rule import TowerRule


@dataclass(eq=False, kw_only=True)
class Scope(TowerRule, name="scope"):
    """Greedy coverage of the tower's features, times a power of the class token's attention.

    NeurIPS 2025; kinredon/SCOPE @6bf7306. Pick by pick the token with the largest
    [Σ_j max(0, cos_ij - covered_j)] · attention_i^alpha, covered_j = max cos to those picked, from
    0 on. Attention of the class token summed over heads, in the block whose output the projector
    reads. Raster order; with tiles T is shared out evenly.

    Deviations: what is odd goes to the first tiles (the code rounds down). Towers without a class
    token: mean attention received.
    """

    alpha: float = 1.0

    def watch(self) -> None:
        self.watch_attention()

    def pick(self, piece: Piece) -> Tensor:
        states = [piece.features, self.attention(piece, heads="sum")]
        return self.captured(self.rule, states, piece.quota).sort(dim=1).values

    def rule(self, states: list[Tensor], *, quota: int) -> Tensor:
        """Picks `(m, quota)` in order, of features `(m, P, D)` and attention `(m, P)`."""
        features, weights = states
        tokens = unit_tokens(features, check=False)
        return facility_location(
            tokens @ tokens.mT, quota, weights=weights**self.alpha, check=False
        )
