"""What a rule of the vision side looks at: the tokens of an image, or of one of its tiles.

Models that cut an image into tiles encode each on its own, and most published rules share the
budget out to the tiles. So an image becomes pieces, a rule picks in each, and `picked.joined` makes
one choice for the image of the picks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...entropy import constants
from . import tower
from .images import ImageTokens
from .vision import VisionRecord

if TYPE_CHECKING:
    from ..families import Family, Layout, TowerAttention


@dataclass(eq=False)
class Piece:
    """m pieces of images with P visual tokens each, as the vision tower saw them.

    quota: how many tokens are to stay of each. images: the images they are part of; None: only the
    record is known yet. members: which of the images, one a piece. places: `(m, P)`, which of its
    image's tokens; source: `(m, P, g)`, the flattened patches each is made of, weights: their
    shares, if not even; tiles: `(m, P)`, the tower's row of each. None: all tokens, one patch each,
    one row an image.
    """

    record: VisionRecord = field(repr=False)
    family: Family = field(repr=False)
    quota: int
    images: ImageTokens | None = None
    members: list[int] = field(default_factory=list)
    places: Tensor | None = field(default=None, repr=False)
    source: Tensor | None = field(default=None, repr=False)
    weights: Tensor | None = field(default=None, repr=False)
    tiles: Tensor | None = field(default=None, repr=False)

    def of_patches(self, per_patch: Tensor) -> Tensor:
        """A value a patch, `(rows, patches, ...)`, as one a token `(m, P, ...)`.

        Tokens made of several patches get their mean, or the mix that the layout names.
        """
        if self.source is None:
            found = per_patch if self.images is None else self.images.of_vision(per_patch)
        else:
            flat = per_patch.flatten(0, 1)
            found = tower.mixed(flat[self.source.to(flat.device)], self.weights)
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
        if self.tiles is not None:
            return states[self.tiles[:, 0].to(states.device)].to(self.places.device)
        states = states if self.images is None else self.images.of_vision(states)
        return states if self.images is None else states.to(self.images.columns.device)

    def place(self, index: Tensor) -> Tensor:
        """Tokens `(m, k)` of the pieces as tokens of their images."""
        return index if self.places is None else self.places.gather(1, index)

    @property
    def projected(self) -> Tensor:
        """The visual tokens as they enter the pruning layer, `(m, P, D)`."""
        hidden = self.images.hidden
        if self.places is None:
            return hidden
        places = self.places[..., None].expand(-1, -1, hidden.shape[-1])
        return self.of_members(hidden).gather(1, places)

    def of_members(self, per_image: Tensor) -> Tensor:
        """A value an image, `(n, ...)`, as one a piece `(m, ...)`."""
        return per_image.index_select(0, _constant(tuple(self.members), per_image.device))

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


def split(
    images: ImageTokens, family: Family, quota: int | None, *, by_tile: bool
) -> tuple[list[Piece], list[int]]:
    """The pieces of a group of images, and the images that keep every token made of patches.

    quota: tokens to keep of each image; None: the rule says how many. by_tile: a piece is a tile,
    with an even share of the quota (what is left over goes to the first, and a tile never gets more
    than it has); else an image. Separators belong to no piece.
    """
    record = images.vision
    if tower.layouts_of(family, record) is None:
        return [Piece(record, family, quota or 0, images, list(range(images.count)))], []
    found: dict[tuple[int, int], list[tuple[int, Tensor, Layout]]] = {}
    whole = []
    for member, layout in enumerate(tower.layouts_at(images, family)):
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
                _weights(places, own, device),
                torch.stack([layout.tiles[at] for at, layout in zip(places, own)]).to(device),
            )
        )  # fmt: skip
    return pieces, whole


@constants
def _constant(values: tuple[int, ...], device: torch.device) -> Tensor:
    """Numbers of the host, int64 on a device: copied once, since no graph can capture a copy."""
    return torch.tensor(values, device=device)


def _weights(
    places: Sequence[Tensor], layouts: Sequence[Layout], device: torch.device
) -> Tensor | None:
    if layouts[0].weights is None:
        return None
    return torch.stack([one.weights[at] for at, one in zip(places, layouts)]).to(device)


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
