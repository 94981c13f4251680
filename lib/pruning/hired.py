"""HiRED: where the class token looks early decides how much each tile may keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..selection import top_k
from ..selection.ranking import order_of, rank_of
from .engine import tower
from .engine.pieces import Piece
from .engine.rasters import of_layout
from .families import Layout
from .tower_rule import TowerRule, by_attention


@dataclass(eq=False, kw_only=True)
class HiRED(TowerRule, name="hired"):
    """Tiles share the budget by early attention; within a tile late attention ranks.

    AAAI 2025, arXiv 2408.10945; hasanar1f/HiRED @502d6dd. Attention of the class token, summed over
    heads, in the tower's first block (budgets) and in the one whose output the projector reads
    (selection). Of a budget B the whole image gets ⌊B alpha⌋, the tiles share the rest by how many
    of the ⌊n (1 - alpha)⌋ strongest early patches of the whole image (of n) lie in the region that
    each covers. Raster order. In LLaVA-1.5, one tile, it is the top T by late attention.

    regions: "grid", as the paper intends: a patch of the whole image belongs to the tile that shows
        the same part of it. "bands", as the code does: patches in raster order are cut into as many
        consecutive runs as there are tiles.

    Deviations: B = keep · N of the tokens the model itself packs, newlines included (the code
    counts whole tiles and drops newlines; here they stay only where everything does). What rounding
    down, or a tile smaller than its share, leaves over goes to the best tokens left, so that the
    count is exact; the code keeps fewer. Without a class token: mean attention received.
    """

    alpha: float = 0.5
    regions: Literal["grid", "bands"] = "grid"
    tiles: Literal["together"] = "together"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of(regions=("grid", "bands"), tiles=("together",))
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {self.alpha}")

    def watch(self) -> None:
        self.watch_attention()
        self._early = tower.watch_projections(self, 0, "qk")

    def pick(self, piece: Piece) -> Tensor:
        late = by_attention(self.attention(piece, heads="sum"))
        if piece.tiles is None or piece.images is None:
            return top_k(late, piece.quota, check=False)
        early = by_attention(piece.received(self._early, 0, heads="sum"))
        layouts = tower.layouts_at(piece.images, self.family)
        rows = []
        for i, member in enumerate(piece.members):
            layout = layouts[member]
            region = covering(layout, of_layout(layout, self.family), bands=self.regions == "bands")
            tiles = layout.tiles[layout.source[:, 0] >= 0]
            rows.append(self.shared(late[i], early[i], tiles, region, piece.quota))
        return torch.stack(rows)

    def shared(
        self, late: Tensor, early: Tensor, tiles: Tensor, region: Tensor, budget: int
    ) -> Tensor:
        """Indices `(budget,)` of an image's tokens, those of the whole image first.

        late, early: scores `(P,)`. tiles: `(P,)`, the tile of each, the whole image's least.
        region: `(n,)`, the tile each token of the whole image lies in.
        """
        device, n = late.device, len(region)
        numbers = tiles.unique()
        within = (tiles[:, None] == numbers).to(device)  # (P, tiles)
        whole = min(int(budget * self.alpha), n)
        marked = early[:n].new_zeros(n)
        if marks := int(n * (1 - self.alpha)):
            marked[top_k(early[:n], marks, check=False)] = 1
        found = marked @ (region[:, None] == numbers).to(device, marked.dtype)
        # exact in float32: whole numbers, and a quotient that is rounded down
        share = (found * (budget - whole) / found.sum().clamp(min=1) + 1e-4).floor()
        share[0] = whole
        rank = rank_of(order_of(late, descending=True))
        order = rank.argsort()
        before = within[order].long().cumsum(0)[rank] - 1  # better tokens of each tile
        inside = (before < share) & within
        key = torch.where(inside.any(1), rank, rank + len(rank))
        return key.argsort()[:budget].sort().values


def covering(layout: Layout, own: list[Tensor], *, bands: bool) -> Tensor:
    """The tile that each token of the whole image lies in, `(n,)`.

    own: the image's rasters: the whole image, and its tiles put together.
    """
    base = own[0]
    n = base.numel()
    if len(own) == 1:
        return layout.tiles[base.flatten()]
    mosaic = layout.tiles[own[1]]
    if bands:
        tiles = mosaic.unique()
        return tiles[torch.arange(n) * len(tiles) // n]
    at = [
        ((torch.arange(side) + 0.5) / side * size).long()
        for side, size in zip(base.shape, mosaic.shape)
    ]
    return mosaic[at[0]][:, at[1]].flatten()
