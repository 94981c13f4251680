"""VisPruner: half of the budget by attention, half by taking near-duplicates out of the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..entropy import unit_tokens
from ..selection.ranking import order_of
from .engine.pieces import Piece
from .tower_rule import TowerRule, by_attention


@dataclass(eq=False, kw_only=True)
class VisPruner(TowerRule, name="vispruner"):
    """Important tokens by class attention, diverse ones by repeated matching of what is left.

    arXiv 2412.01818 (second version, ICCV 2025); Theia-4869/VisPruner @aefa01a. ⌊T·important⌋
    tokens have the largest attention of the class token (mean over heads, the block whose output
    the projector reads). The others, in descending attention, are thinned out: every second one
    looks for its most similar partner among those between (features before the projector), the
    `step` with the most similar partner are deleted, and the rest is put in the order [survivors by
    similarity, partners]; until T tokens are left in all. Raster order.

    Deviations: an odd number of tokens is split with the first half larger, where the code fails
    (it takes both halves for equally long); a round deletes no more than there are to delete. Tiles
    and towers without a class token as in `FasterVLM`, which is this method with important=1.
    """

    important: float = 0.5
    step: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.important <= 1:
            raise ValueError(f"important must be in [0, 1], got {self.important}")
        if self.step < 1:
            raise ValueError(f"step must be at least 1, got {self.step}")

    def watch(self) -> None:
        self.watch_attention()

    def pick(self, piece: Piece) -> Tensor:
        states = [self.attention(piece), piece.features]
        return self.captured(self.rule, states, piece.quota)

    def rule(self, states: list[Tensor], *, quota: int) -> Tensor:
        """Indices `(m, quota)` of attention `(m, P)` and features `(m, P, D)`."""
        weights, features = states
        order = order_of(by_attention(weights), descending=True)
        first = int(quota * self.important)
        rest = thinned(
            unit_tokens(features, check=False), order[:, first:], quota - first, self.step
        )
        return torch.cat([order[:, :first], rest], 1).sort(dim=1).values


def thinned(tokens: Tensor, order: Tensor, keep: int, step: int) -> Tensor:
    """`keep` of the tokens `order` `(m, R)`, near-duplicates deleted; tokens `(m, P, D)` are unit.

    >>> tokens = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]])
    >>> thinned(tokens, torch.tensor([[0, 1, 2, 3]]), 3, step=8).tolist()
    [[2, 1, 3]]
    """
    cosines = tokens @ tokens.mT
    while keep and order.shape[1] > keep:
        ours, theirs = order[:, ::2], order[:, 1::2]
        delete = min(step, order.shape[1] - keep, ours.shape[1])
        table = cosines.gather(1, ours[..., None].expand(-1, -1, cosines.shape[2]))
        partners = theirs[:, None].expand(-1, ours.shape[1], -1)
        similar = table.gather(2, partners).amax(-1)
        left = order_of(similar, descending=True)[:, delete:]
        order = torch.cat([ours.gather(1, left), theirs], 1)
    return order[:, :keep]
