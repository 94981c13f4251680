"""Token-level correlation: dense tiles keep more, informative tokens are drawn, the rest merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..entropy import unit_tokens
from ..selection.ranking import first_largest, order_of, rank_of
from .engine import tower
from .engine.count import OwnCount
from .engine.picked import Picked
from .engine.pieces import Piece
from .random_prune import draws, watch_pixels
from .tower_rule import TowerRule, by_attention


@dataclass(eq=False, kw_only=True)
class TokenCorr(OwnCount, TowerRule, name="tokencorr"):
    """Token-level correlation-guided compression, as far as public sources describe it.

    arXiv 2407.14439; the repository JiuTian-VL/TokenCorrCompressor @0773758 holds no code, so this
    is a reconstruction from the abstract and reviews. Its structure is theirs; every constant below
    is a parameter of ours, since no public source states them.

    * A patch is redundant if more than `repeats` others of its tile have keys whose cosine to its
      own is above `similar`. The information density of a tile is the share that is not.
    * Global branch (the whole image, a late block): patches whose attention by the class token
      exceeds Q3 + 1.5 IQR. Local branch (the tiles, an early block): a draw without replacement in
      proportion to the class token's attention, ⌈density · n⌉ from each. Where there is only one
      tile, it is both.
    * Each token that is not kept is added, times the cosine of their keys, to the kept token whose
      key is most similar.

    count: "exact" keeps `budget(N)`: the outliers first, then one draw over all tiles with
        probabilities density x attention, so that tiles share the rest by their density.
        "adaptive" is published; `keep` is only asked whether it is 1.
    early: the block of the local branch and of the keys; None: an eighth of the way.
    draw: "seeded", from `seed` and the image alone; "top" takes the largest instead (ours).
    merge: "sum" as reviewers describe it; "mean" divides by 1 + the cosines; "none" drops.

    Tokens are merged as the projector reads them, which makes new tokens of them. Raster order.
    Without a class token: mean attention received.
    """

    count: Literal["exact", "adaptive"] = "exact"
    similar: float = 0.8
    repeats: int = 8
    early: int | None = None
    draw: Literal["seeded", "top"] = "seeded"
    merge: Literal["sum", "mean", "none"] = "sum"
    seed: int = 0
    tiles: Literal["together"] = "together"

    merges = True
    from_record = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of(
            count=("exact", "adaptive"), draw=("seeded", "top"), merge=("sum", "mean", "none"),
            tiles=("together",),
        )  # fmt: skip
        if not -1 <= self.similar <= 1:
            raise ValueError(f"similar must be a cosine in [-1, 1], got {self.similar}")
        if self.repeats < 0:
            raise ValueError(f"repeats must be at least 0, got {self.repeats}")

    def watch(self) -> None:
        self.watch_attention()
        self._low = len(self.family.blocks()) // 8 if self.early is None else self.early
        self._low_attention = tower.watch_projections(self, self._low, "qk")
        if self.draw == "seeded":
            watch_pixels(self)

    def pick(self, piece: Piece) -> Picked:
        keys = unit_tokens(piece.keys(self._low), check=False)
        cosines = keys @ keys.mT
        late = self.attention(piece)
        early = piece.received(self._low_attention, self._low)
        tiles = torch.zeros_like(late, dtype=torch.int64) if piece.tiles is None else piece.tiles
        index, counts = self.chosen(cosines, late, early, tiles, self._noise(piece), piece.quota)
        if self.merge == "none":
            return Picked(
                index, piece.projected.gather(1, _wide(index, piece.projected)), None, counts
            )
        real = None
        if counts is not None:
            real = torch.arange(index.shape[1], device=index.device) < counts[:, None]
        made = merged(piece.mergeable, cosines, index, real, mean=self.merge == "mean")
        return Picked(index, piece.project(made).to(piece.projected.dtype), None, counts)

    def _noise(self, piece: Piece) -> Tensor | None:
        """Gumbel noise for each token, `(m, P)`: adding it makes a ranking a draw."""
        if self.draw == "top":
            return None
        images = piece.images
        every = draws(
            self, images, self.seed, torch.arange(images.tokens, device=images.columns.device)
        )
        every = piece.of_members(every)
        own = every if piece.places is None else every.gather(1, piece.places)
        uniform = ((own >> 11) & (2**53 - 1)).double() / 2**53  # the upper bits are the better ones
        return -(-(uniform.clamp(2.0**-53, 1 - 2.0**-53)).log()).log()

    def chosen(
        self, cosines: Tensor, late: Tensor, early: Tensor, tiles: Tensor, noise: Tensor | None,
        budget: int,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """The kept tokens `(m, k)`, and how many of them if that varies, `(m,)`.

        Of cosines `(m, P, P)` and attention, tiles and noise `(m, P)`. The whole image's tile is
        that of the first token.
        """
        same = tiles[:, :, None] == tiles[:, None]
        density = densities(cosines, same, self.similar, self.repeats)
        whole = tiles == tiles[:, :1]
        local = torch.where(whole.all(1, keepdim=True), whole, ~whole)
        share = early / (same * early[:, None]).sum(2).clamp_min(torch.finfo(early.dtype).tiny)
        drawn = by_attention(share).double() + (0 if noise is None else noise)
        out = above_fence(late, whole)
        size = late.shape[1]
        if self.exact:
            tiny = torch.finfo(torch.float32).tiny  # a tile without density comes last, in order
            drawn = drawn + density.double().clamp_min(tiny).log()
            drawn = drawn.masked_fill(~local, -torch.inf)
            rank = rank_of(drawn.argsort(dim=1, descending=True, stable=True))
            first = rank_of(order_of(by_attention(late), descending=True))
            key = torch.where(out, first, rank + size)
            return key.argsort(dim=1)[:, :budget].sort(dim=1).values, None
        better = (drawn[:, None] > drawn[:, :, None]) & same
        wanted = (density * same.sum(2)).ceil()
        keep = out | (local & (better.sum(2) < wanted))
        keep[:, 0] |= ~keep.any(1)
        index = (~keep).to(torch.uint8).sort(dim=1, stable=True).indices
        return index, keep.sum(1)


def densities(cosines: Tensor, same: Tensor, similar: float, repeats: int) -> Tensor:
    """The information density of every token's tile, float32 `(m, P)`.

    >>> densities(torch.eye(2)[None], torch.ones(1, 2, 2, dtype=bool), 0.5, 0).tolist()
    [[1.0, 1.0]]
    """
    itself = torch.eye(cosines.shape[-1], dtype=torch.bool, device=cosines.device)
    alike = ((cosines > similar) & same & ~itself).sum(2)
    fresh = (alike <= repeats).float()
    return (same * fresh[:, None]).sum(2) / same.sum(2)


def above_fence(scores: Tensor, members: Tensor) -> Tensor:
    """Which members `(m, P)` have a score above Q3 + 1.5 IQR of the members', bool `(m, P)`."""
    own = scores.masked_fill(~members, torch.nan)
    low, high = (torch.nanquantile(own, q, dim=1, keepdim=True) for q in (0.25, 0.75))
    return (scores > high + 1.5 * (high - low)) & members


def merged(
    states: Tensor, cosines: Tensor, index: Tensor, real: Tensor | None, *, mean: bool
) -> Tensor:
    """The kept tokens with the dropped ones added, `(m, k, D)`, of states `(m, P, D)`.

    real: bool `(m, k)`, which of `index` are kept; None: all.
    """
    ones = torch.ones_like(index, dtype=torch.bool) if real is None else real
    kept = torch.zeros(states.shape[:2], dtype=torch.bool, device=states.device)
    kept = kept.scatter(1, index, ones)
    rows = cosines.gather(1, index[..., None].expand(-1, -1, cosines.shape[2]))  # (m, k, P)
    rows = rows.masked_fill(~ones[..., None], -torch.inf)
    nearest = first_largest(rows.mT)  # (m, P), of the k
    place = torch.arange(index.shape[1], device=index.device)[:, None]
    into = (nearest[:, None] == place) & ~kept[:, None]  # (m, k, P)
    weights = torch.where(into, rows, 0)
    own = states.gather(1, _wide(index, states))
    made = own + weights @ states
    return made / (1 + weights.sum(2, keepdim=True)) if mean else made


def _wide(index: Tensor, states: Tensor) -> Tensor:
    return index[..., None].expand(-1, -1, states.shape[-1])
