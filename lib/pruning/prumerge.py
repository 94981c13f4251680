"""LLaVA-PruMerge: keep what the class token singles out, and add to it what resembles it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..entropy import unit_tokens
from ..selection.ranking import order_of
from .engine.count import OwnCount
from .engine.picked import Picked
from .engine.pieces import Piece
from .tower_rule import TowerRule, by_attention

NEIGHBOURS = 32


@dataclass(eq=False, kw_only=True)
class PruMerge(OwnCount, TowerRule, name="prumerge"):
    """Tokens of high class attention, each with its neighbours added, and one for the rest.

    arXiv 2403.15388; 42Shawn/LLaVA-PruMerge @097c041. Attention of the tower's *last* block with
    all heads as one: softmax(q kᵀ / √width), the class token's row a over the patches. A kept token
    becomes x_i + Σ a_j x_j over its 32 most similar others (cosine of keys, kept or not); the sum
    is not normalised, and every update reads the original x. One token more, Σ a_j x_j over all
    that were dropped, stands in the place of the first of them. x are the features that the
    projector reads; it makes the tokens of the sums.

    count: "exact" keeps `budget(N)` tokens, the one for the rest included. "adaptive" is published:
        as many as have an attention above Q3 + 1.5 IQR of the image's, and one; of `keep` only
        whether it is 1 matters.
    plus: PruMerge+, which adds regularly spaced tokens before merging. Adaptive: every s-th, with
        s = ⌊⌊N / kept⌋ / 3⌋ (published; at least 1, where the code divides by zero as soon as a
        third are outliers). Exact: a quarter of the budget by attention, about the published
        proportion, and the others evenly spaced over what is left.
    order: "published" is by descending attention, then the spaced ones, then the one for the rest.
        "raster" sorts all by their places.

    Deviations: quartiles are those of an image (of a tile), where the code takes them over the
    batch. Published numbers of PruMerge are of fine-tuned models. Without a class token: the mean
    attention received. Where a token is made of several patches, x are the visual tokens; towers
    that rotate queries and keys keep their heads, of whose attention the mean is taken.
    """

    count: Literal["exact", "adaptive"] = "exact"
    plus: bool = False
    order: Literal["published", "raster"] = "published"

    merges = True
    from_record = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of(count=("exact", "adaptive"), order=("published", "raster"))

    @property
    def reorders(self) -> bool:
        return self.order != "raster"

    def watch(self) -> None:
        self.watch_attention(len(self.family.blocks()) - 1)

    def pick(self, piece: Piece) -> Picked:
        keys = piece.keys(self._block)
        attention = self._attention
        if "position_embeddings" not in attention.context:  # they are of a head's width
            attention = dataclasses.replace(attention, heads=1, scale=keys.shape[-1] ** -0.5)
        weights = piece.received(attention, self._block)
        if self.exact:
            choice = chosen(weights, piece.quota, plus=self.plus)
        else:
            choice = outliers(weights, plus=self.plus)
        states = piece.project(summed(piece.mergeable, weights, keys, choice))
        states = states.to(piece.projected.dtype)
        key = None
        if self.reorders:
            tile = 0 if piece.tiles is None else piece.tiles[:, :1] * piece.images.tokens
            key = (torch.arange(choice.index.shape[1], device=weights.device) + tile).expand_as(
                choice.index
            )
        return Picked(choice.index, states, key, choice.counts)


class Choice(NamedTuple):
    """Which tokens stay of m pieces with P tokens each.

    index: `(m, k)` without repeats, in the published order. own: bool `(m, k)`, True for a kept
    token; rest: `(m, k)`, True for the one that stands for what was dropped. counts: `(m,)`, how
    many of each row stay, the first ones; None: all.
    """

    index: Tensor
    own: Tensor
    rest: Tensor
    counts: Tensor | None = None


def chosen(weights: Tensor, budget: int, *, plus: bool = False) -> Choice:
    """Exactly `budget` tokens by attention `(m, P)`, the last one for the rest."""
    size = weights.shape[1]
    kept = max(1, budget - 1)
    best = max(1, -(-kept // 4)) if plus else kept
    order = order_of(by_attention(weights), descending=True)
    spaced = order[:, best:].sort(dim=1).values
    step = torch.arange(kept - best, device=order.device) * 2 + 1
    spaced = spaced[:, step * (size - best) // (2 * max(1, kept - best))]
    index = torch.cat([order[:, :best], spaced], 1)
    taken = torch.zeros_like(weights, dtype=torch.uint8).scatter_(1, index, 1)
    first = taken.sort(dim=1, stable=True).indices[:, : budget - kept]  # the first dropped one
    index = torch.cat([index, first], 1)
    rest = (torch.arange(budget, device=order.device) >= kept).expand_as(index)
    return Choice(index, ~rest, rest)


def outliers(weights: Tensor, *, plus: bool = False) -> Choice:
    """The upper outliers of attention `(m, P)`, and one token for the rest if any is left."""
    size = weights.shape[1]
    quartiles = torch.quantile(weights, weights.new_tensor([0.25, 0.75]), dim=1, keepdim=True)
    fence = quartiles[1] + 1.5 * (quartiles[1] - quartiles[0])
    order = order_of(by_attention(weights), descending=True)
    place = torch.arange(size, device=weights.device)
    number = (weights > fence).sum(1, keepdim=True)
    rank = torch.empty_like(order).scatter_(1, order, place.expand_as(order))
    key = torch.where(rank < number, rank, 3 * size + place)  # then what is dropped, by place
    if plus:
        step = (size // number.clamp(min=1) // 3).clamp(min=1)
        spaced = (place % step == 0) & (place < size - 1) & (number > 0)
        key = torch.where(spaced & (rank >= number), 2 * size + place, key)
    index = key.argsort(dim=1)
    kept = (key < 3 * size).sum(1, keepdim=True)
    return Choice(
        index, place < kept, (place == kept).expand_as(index), (kept + 1).clamp(max=size).squeeze(1)
    )


def summed(states: Tensor, weights: Tensor, keys: Tensor, choice: Choice) -> Tensor:
    """What the chosen tokens become, `(m, k, D)`, of states `(m, P, D)` and keys `(m, P, d)`."""
    size = states.shape[1]
    unit = unit_tokens(keys, check=False)
    ours = unit.gather(1, choice.index[..., None].expand(-1, -1, unit.shape[-1]))
    itself = torch.arange(size, device=states.device) == choice.index[..., None]  # (m, k, P)
    similar = (ours @ unit.mT).masked_fill(itself, -torch.inf)
    near = order_of(similar, descending=True)[..., : min(NEIGHBOURS, size - 1)]
    near = torch.zeros_like(itself).scatter_(2, near, True)
    kept = (itself & choice.own[..., None]).any(1)  # (m, P)
    mixed = near.to(states.dtype) * weights[:, None] + itself.to(states.dtype)
    left = (weights * ~kept)[:, None].expand_as(mixed)
    return torch.where(choice.rest[..., None], left, mixed) @ states
