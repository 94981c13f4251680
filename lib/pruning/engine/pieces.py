"""What a rule of the vision side looks at: the tokens of an image, or of one of its tiles.

Models that cut an image into tiles encode each on its own, and most published rules share the
budget out to the tiles. Here an image becomes pieces, a rule picks in each, and the picks are
joined to one choice for the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from . import tower
from .images import ImageTokens
from .sequence import Chosen
from .vision import VisionRecord

if TYPE_CHECKING:
    from ..families import Family, Layout, TowerAttention


@dataclass(eq=False)
class Piece:
    """m pieces of images with P visual tokens each, as the vision tower saw them.

    quota: how many tokens are to stay of each. images: the images they are part of; None: only the
    record is known yet. members: which of the images, one a piece. places: `(m, P)`, which of its
    image's tokens; source: `(m, P, g)`, the flattened patches each is made of; rows: `(m,)`, the
    tower's row of each. None: all tokens, one patch each, one row an image.
    """

    record: VisionRecord = field(repr=False)
    family: Family = field(repr=False)
    quota: int
    images: ImageTokens | None = None
    members: list[int] = field(default_factory=list)
    places: Tensor | None = field(default=None, repr=False)
    source: Tensor | None = field(default=None, repr=False)
    rows: Tensor | None = field(default=None, repr=False)

    def of_patches(self, per_patch: Tensor) -> Tensor:
        """A value a patch, `(rows, patches, ...)`, as one a token `(m, P, ...)`.

        Tokens made of several patches get their mean.
        """
        if self.source is None:
            found = per_patch if self.images is None else self.images.of_vision(per_patch)
        else:
            flat = per_patch.flatten(0, 1)
            gathered = flat[self.source.to(flat.device)]  # (m, P, g, ...)
            one = gathered.shape[2] == 1
            found = gathered[:, :, 0] if one else gathered.float().mean(2).to(flat.dtype)
        return found if self.images is None else found.to(self.images.columns.device)

    def hidden(self, layer: int) -> Tensor:
        """Hidden state `layer` of the tower, `(m, P, D)`."""
        return self.of_patches(tower.patch_rows(self.family, self.record.hidden[layer]))

    @property
    def features(self) -> Tensor:
        """What the projector reads of the tower, `(m, P, D)`."""
        return self.of_patches(tower.features(self.record, self.family))

    def keys(self, block: int) -> Tensor:
        """Keys of a block of the tower, heads side by side, `(m, P, D)`."""
        made = self.record.projections[block, "k"]
        return self.of_patches(tower.patch_rows(self.family, made))

    def received(self, attention: TowerAttention, block: int, *, heads: str = "mean") -> Tensor:
        """What each token receives of the attention in a block, float32 `(m, P)`: see `tower`."""
        weights = tower.attended(self.record, self.family, attention, block, heads=heads)
        return self.of_patches(tower.patch_rows(self.family, weights))

    def class_token(self) -> Tensor | None:
        """The class token as the projector would read it, `(m, 1, D)`; None if there is none."""
        if not self.family.class_tokens or self.family.skipped == 0:
            return None
        states = tower.features(self.record, self.family, first=True)  # (rows, 1, D)
        if self.rows is not None:
            return states[self.rows.to(states.device)].to(self.places.device)
        states = states if self.images is None else self.images.of_vision(states)
        return states if self.images is None else states.to(self.images.columns.device)

    @property
    def projected(self) -> Tensor:
        """The visual tokens as they enter the pruning layer, `(m, P, D)`."""
        hidden = self.images.hidden
        if self.places is None:
            return hidden
        return hidden[self.members].gather(
            1, self.places[..., None].expand(-1, -1, hidden.shape[-1])
        )

    @property
    def by_patch(self) -> bool:
        """True if the projector makes one token of every patch, so that patches can be merged."""
        single = self.source is None or self.source.shape[2] == 1
        return single and self.family.projector is not None

    def project(self, states: Tensor) -> Tensor:
        """Merged features `(m, k, D)` as visual tokens; see `mergeable`."""
        if not self.by_patch:
            return states
        weight = next(self.family.projector.parameters())
        return self.family.projector(states.to(weight.device, weight.dtype)).to(states.device)

    @property
    def mergeable(self) -> Tensor:
        """States to merge before `project`, float32 `(m, P, D)`.

        The features, where each makes one token; else the tokens themselves.
        """
        return (self.features if self.by_patch else self.projected).float()


class Picked(NamedTuple):
    """What a rule picks of m pieces.

    index: `(m, k)` int64 without repeats, which of the P tokens. states: `(m, k, D)` that take their
    places; None: they stay as they are. key: `(m, k)`, sorts the tokens of an image; None: the
    raster does. counts: `(m,)`, how many stay, the first ones; None: all k.
    """

    index: Tensor
    states: Tensor | None = None
    key: Tensor | None = None
    counts: Tensor | None = None


def split(
    images: ImageTokens, family: Family, quota: int | None, *, by_tile: bool
) -> tuple[list[Piece], list[int]]:
    """The pieces of a group of images, and the images that keep every token made of patches.

    quota: tokens to keep of each image; None: the rule says how many. by_tile: a piece is a tile,
    with an even share of the quota (what is left over goes to the first, and a tile never gets more
    than it has); else an image. Separators belong to no piece.
    """
    record = images.vision
    layouts = tower.layouts_of(family, record)
    if layouts is None:
        return [Piece(record, family, quota or 0, images, list(range(images.count)))], []
    found: dict[tuple[int, int], list[tuple[int, Tensor, Layout]]] = {}
    whole = []
    for member, layout in enumerate(_layouts(images, layouts)):
        parts = list(_parts(layout, by_tile))
        sizes = list(map(len, parts))
        if quota is not None and quota >= sum(sizes):
            whole.append(member)
            continue
        shares = [0] * len(parts) if quota is None else even_shares(quota, sizes)
        for places, share in zip(parts, shares):
            if share or quota is None:
                found.setdefault((len(places), share), []).append((member, places, layout))
    device = images.columns.device
    pieces = []
    for (_, share), alike in found.items():
        members, places, own = zip(*alike)
        pieces.append(
            Piece(
                record, family, share, images, list(members),
                torch.stack(places).to(device),
                torch.stack([layout.source[at] for at, layout in zip(places, own)]).to(device),
                torch.stack([layout.tiles[at[0]] for at, layout in zip(places, own)]).to(device),
            )
        )  # fmt: skip
    return pieces, whole


def _layouts(images: ImageTokens, layouts: list[Layout]) -> list[Layout]:
    """The layout of each image of a group."""
    return [layouts[images.prefill.encoded(ordinal)] for ordinal in images.ordinals]


def _parts(layout: Layout, by_tile: bool) -> Iterable[Tensor]:
    """The tokens of each tile, or of all of them, without separators."""
    real = layout.source[:, 0] >= 0
    if not by_tile:
        yield real.nonzero().squeeze(1)
        return
    for tile in layout.tiles[real].unique().tolist():
        yield (real & (layout.tiles == tile)).nonzero().squeeze(1)


def even_shares(total: int, caps: Sequence[int]) -> list[int]:
    """`total` shared out evenly, nobody getting more than their cap; what is odd goes first.

    >>> even_shares(10, [9, 9, 9]), even_shares(10, [9, 1, 9])
    ([4, 3, 3], [5, 1, 4])
    """
    shares, left = [0] * len(caps), total
    order = sorted(range(len(caps)), key=lambda i: (caps[i], -i))
    for rank, i in enumerate(order):
        shares[i] = min(caps[i], left // (len(caps) - rank))
        left -= shares[i]
    return shares


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
            torch.cat([hidden[m][part.index] if part.states is None else part.states for part in own])
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
    layout = _layouts(images, tower.layouts_of(family, images.vision))[member]
    lonely = layout.source[:, 0] < 0
    index = torch.cat([(~lonely).nonzero().squeeze(1), lonely.nonzero().squeeze(1)])
    return index[:quota].sort().values.to(images.columns.device)
