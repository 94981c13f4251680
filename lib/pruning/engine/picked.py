"""What a rule picked in the pieces of images, joined to one choice for every image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from . import tower
from .images import ImageTokens
from .pieces import Piece
from .sequence import Chosen

if TYPE_CHECKING:
    from ..families import Family


class Picked(NamedTuple):
    """What a rule picks of m pieces.

    index: `(m, k)` int64 without repeats, which of the P tokens.
    states: `(m, k, D)` that take their places; None: they stay as they are.
    key: `(m, k)`, sorts the tokens of an image; None: the raster does.
    counts: `(m,)`, how many stay, the first ones; None: all k.
    """

    index: Tensor
    states: Tensor | None = None
    key: Tensor | None = None
    counts: Tensor | None = None


def joined(
    images: ImageTokens, pieces: Sequence[Piece], picks: Sequence[Picked], whole: Sequence[int],
    family: Family, quota: int | None,
) -> Tensor | Chosen:  # fmt: skip
    """The choice for a group of images: bool `(n, N)`, or a `Chosen` where order or states differ.

    whole: images that keep every token made of patches; separators fill up their quota.
    """
    if len(pieces) == 1 and pieces[0].places is None:
        return _ordered(images, picks[0])
    parts: list[list[_Part]] = [[] for _ in images.ordinals]
    for piece, pick in zip(pieces, picks):
        places = piece.places.gather(1, pick.index)
        for i, member in enumerate(piece.members):
            parts[member].append(_Part.of(pick, places, i))
    for member in whole:
        parts[member].append(_Part(_filled(images, family, member, quota)))
    return _ordered(images, _stacked(images, parts, picks))


class _Part(NamedTuple):
    """What is picked of one piece of one image: `Picked` without the first dimension."""

    index: Tensor
    states: Tensor | None = None
    key: Tensor | None = None
    count: Tensor | None = None

    @classmethod
    def of(cls, pick: Picked, places: Tensor, i: int) -> _Part:
        """Piece i of a pick whose tokens are the image's `places` `(m, k)`."""
        return cls(places[i], *(None if one is None else one[i] for one in pick[1:]))

    def real(self) -> Tensor:
        """Bool `(k,)`, False for what fills up."""
        place = torch.arange(len(self.index), device=self.index.device)
        return place < (len(place) if self.count is None else self.count)


def _stacked(
    images: ImageTokens, parts: Sequence[Sequence[_Part]], picks: Sequence[Picked]
) -> Picked:
    """The parts of every image one behind the other, and the images above each other."""
    stated, keyed, ragged = (
        any(pick[field] is not None for pick in picks) for field in (1, 2, 3)
    )  # fmt: skip
    index = [torch.cat([part.index for part in own]) for own in parts]
    states = key = real = None
    if stated:
        hidden = images.hidden
        states = [
            torch.cat([hidden[m][p.index] if p.states is None else p.states for p in own])
            for m, own in enumerate(parts)
        ]  # fmt: skip
    if keyed:
        key = [
            torch.cat([part.index if part.key is None else part.key for part in own])
            for own in parts
        ]  # fmt: skip
    if not ragged:
        return Picked(torch.stack(index), *(one and torch.stack(one) for one in (states, key)))
    real = [torch.cat([part.real() for part in own]) for own in parts]
    return _ragged(images, index, states, key, real)


def _ragged(
    images: ImageTokens, index: list[Tensor], states: list[Tensor] | None, key: list[Tensor] | None,
    real: list[Tensor],
) -> Picked:  # fmt: skip
    """Rows of N tokens each: those that stay first, then all others."""
    n, size = images.columns.shape
    device = index[0].device
    place = torch.arange(size, device=device)
    full = torch.empty(n, size, dtype=torch.int64, device=device)
    keys = place.repeat(n, 1)
    made = None if states is None else images.hidden.clone()
    for i in range(n):
        order = (~real[i]).to(torch.uint8).sort(stable=True).indices
        named = index[i][order]
        missing = torch.ones(size, dtype=torch.bool, device=device).index_fill_(0, named, False)
        rest = missing.to(torch.uint8).sort(descending=True, stable=True).indices
        full[i] = torch.cat([named, rest[: size - len(named)]])
        if key is not None:
            keys[i, : len(named)] = key[i][order]
        if made is not None:
            made[i, : len(named)] = states[i][order].to(made.dtype)
    counts = torch.stack([one.sum() for one in real])
    return Picked(full, made, None if key is None else keys, counts)


def _ordered(images: ImageTokens, pick: Picked) -> Tensor | Chosen:
    """The tokens of every image by their key; a mask says it all if that is their place."""
    index, states, key, counts = pick
    chosen = Chosen(index, states, counts)
    if states is None and key is None:
        mask = torch.zeros(images.columns.shape, dtype=torch.bool, device=index.device)
        return mask.scatter_(1, index, True if counts is None else chosen.real)
    key = index if key is None else key
    if counts is not None:  # what fills up stays behind
        key = torch.where(chosen.real, key, key.amax() + 1)
    order = key.argsort(dim=1, stable=True)
    if states is not None:
        states = states.gather(1, order[..., None].expand(-1, -1, states.shape[-1]))
    return Chosen(index.gather(1, order), states, counts)


def _filled(images: ImageTokens, family: Family, member: int, quota: int) -> Tensor:
    """Every token made of patches of an image, and its first separators, `(quota,)`."""
    layout = tower.layouts_at(images, family)[member]
    lonely = layout.source[:, 0] < 0
    index = torch.cat([(~lonely).nonzero().squeeze(1), lonely.nonzero().squeeze(1)])
    return index[:quota].sort().values.to(images.columns.device)
