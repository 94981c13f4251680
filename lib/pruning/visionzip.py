"""VisionZip: the tokens the class token attends to, and the rest merged into a few."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..entropy import unit_tokens
from ..selection import top_k
from ..selection.ranking import first_largest
from .engine.picked import Picked
from .engine.pieces import Piece
from .tower_rule import TowerRule, by_attention


@dataclass(eq=False, kw_only=True)
class VisionZip(TowerRule, name="visionzip"):
    """Dominant tokens by class attention, contextual tokens by merging similar keys.

    CVPR 2025, arXiv 2412.04467; JIA-Lab-research/VisionZip @3151f6d. In the block whose output the
    projector reads: the class token itself and the patches it attends to most (sum over heads) are
    dominant. Of the R others, in raster order, every ⌊R/M⌋-th is a target; each remaining one goes
    to the target whose key is most similar (keys averaged over heads, cosine), and a target becomes
    itself plus the mean of what it was given: a sum, so that its norm about doubles. What is made
    anew passes through the projector.

    contextual: M as a share of the budget; 10/64 are the published 10 of 64, 20 of 128, 30 of 192.
    class_token: whether the class token is one of the dominant ones, in the place of the first
        token that was merged away.
    order: "published" is [class token, dominant in raster order, contextual]; with tiles, dominant
        tokens in the raster of the whole image, then every tile's class token and contextual
        tokens. "raster" sorts all by their places.

    Deviations: with tiles the even shares' remainder goes to the first (the code gives each tile
    one budget). Where a token is made of several patches, tokens are merged behind the projector.
    Without a class token: mean attention received, and no class token kept.
    """

    contextual: float = 10 / 64
    class_token: bool = True
    order: Literal["published", "raster"] = "published"

    merges = True
    from_record = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of(order=("published", "raster"))
        if not 0 <= self.contextual <= 1:
            raise ValueError(f"contextual must be in [0, 1], got {self.contextual}")

    @property
    def reorders(self) -> bool:
        return self.order != "raster"

    def watch(self) -> None:
        self.watch_attention()

    def pick(self, piece: Piece) -> Picked:
        class_token = piece.class_token() if self.class_token else None
        extra = int(class_token is not None)
        few = min(int(piece.quota * self.contextual + 0.5), piece.quota - 1)
        weights = self.attention(piece, heads="sum")
        heads = self._attention.heads
        metric = piece.keys(self._block).float().unflatten(-1, (heads, -1)).mean(2)
        groups = contexts(weights, metric, piece.quota - few - extra, few)
        made = [] if class_token is None else [class_token]
        if few:
            made.append(merged(piece.mergeable, groups).to(piece.projected.dtype))
        new = piece.project(torch.cat(made, 1)) if made else None
        kept = _take(piece.projected, groups.dominant)
        states = kept if new is None else torch.cat([new[:, :extra], kept, new[:, extra:]], 1)
        index = torch.cat([groups.others[:, :extra], groups.dominant, groups.targets], 1)
        key = self._key(piece, groups, extra, few) if self.reorders else None
        return Picked(index, states, key)

    def _key(self, piece: Piece, groups: Contexts, extra: int, few: int) -> Tensor:
        """Sorts the tokens of an image as published."""
        place, count = piece.place(groups.dominant), piece.images.tokens
        front = -1 if piece.places is None else count
        first = place.new_full((len(place), extra), front)
        return torch.cat([first, place, place.new_full((len(place), few), count)], 1)


class Contexts(NamedTuple):
    """Indices of m pieces: the dominant tokens, the targets, and the others with their target."""

    dominant: Tensor
    targets: Tensor
    others: Tensor
    target: Tensor


def contexts(weights: Tensor, metric: Tensor, dominant: int, few: int) -> Contexts:
    """Who is dominant, a target, or merged into which; weights `(m, P)`, metric `(m, P, d)`."""
    size = weights.shape[1]
    if dominant:
        best = top_k(by_attention(weights), dominant, check=False)
    else:
        best = torch.empty(len(weights), 0, dtype=torch.int64, device=weights.device)
    taken = torch.zeros_like(weights, dtype=torch.uint8).scatter_(1, best, 1)
    rest = taken.sort(dim=1, stable=True).indices[:, : size - dominant]
    place = torch.arange(rest.shape[1], device=rest.device)
    step = max(1, rest.shape[1] // max(few, 1))
    chosen = (place % step == 0) & (place < few * step)
    split = (~chosen).to(torch.uint8).sort(stable=True).indices
    targets, others = rest[:, split[:few]], rest[:, split[few:]]
    if not few:
        return Contexts(best, targets, others, others[:, :0])
    unit = unit_tokens(metric, check=False)
    similar = _take(unit, others) @ _take(unit, targets).mT
    return Contexts(best, targets, others, first_largest(similar))


def merged(states: Tensor, groups: Contexts) -> Tensor:
    """Each target plus the mean of what goes to it, `(m, M, D)`; states `(m, P, D)`."""
    few = groups.targets.shape[1]
    into = torch.arange(few, device=states.device)[:, None] == groups.target[:, None]
    into = into.to(states.dtype)  # (m, M, others)
    sums = into @ _take(states, groups.others)
    return _take(states, groups.targets) + sums / into.sum(-1, keepdim=True).clamp(min=1)


def _take(states: Tensor, index: Tensor) -> Tensor:
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))
