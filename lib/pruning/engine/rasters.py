"""The rasters that visual tokens form, and their division into cells of nearly equal size."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...entropy import constants
from . import tower
from .images import ImageTokens

if TYPE_CHECKING:
    from ..families import Family, Layout


def rasters(images: ImageTokens, family: Family) -> list[list[Tensor]]:
    """The rasters of each image of a group: int64 `(rows, columns)`, places among its tokens.

    An image cut into tiles has two: the whole image made small, and the tiles put together.

    Raises `TypeError` if the tokens form no raster.
    """
    device = images.columns.device
    if (grid := family.grid()) is not None:
        return [[torch.arange(images.tokens, device=device).view(grid)]] * images.count
    layouts = tower.layouts_at(images, family)
    return [[one.to(device) for one in of_layout(layout, family)] for layout in layouts]


def require_raster(family: Family) -> None:
    """Raise `TypeError` if the family's tokens form no raster, whatever the image."""
    if family.grid() is None and not family.has_layouts:
        raise TypeError(
            f"the visual tokens of this {family.title} form no raster: one of them stands for no "
            "part of the image"
        )


def of_layout(layout: Layout, family: Family) -> list[Tensor]:
    """The rasters of an image with this layout, see `rasters`."""
    real = layout.source[:, 0] >= 0
    places = real.nonzero().squeeze(1)
    if layout.grid is not None:
        return [places.view(layout.grid)]
    base = int((layout.tiles[places] == layout.tiles[0]).long().cumprod(0).sum())
    side = math.isqrt(base)
    found = [places[:base].view(side, side)] if side * side == base else []
    lines = _lines(places[base:], len(real))
    if not found or len(set(map(len, lines))) > 1:
        raise TypeError(f"the visual tokens of {family.title} form no raster")
    return found + ([torch.stack(lines)] if lines else [])


def _lines(places: Tensor, size: int) -> list[Tensor]:
    """Places cut where something stands between them."""
    if not len(places):
        return []
    cuts = ((places[1:] - places[:-1]) > 1).nonzero().squeeze(1) + 1
    return list(torch.tensor_split(places, cuts.tolist()))


class Cells(NamedTuple):
    """A raster cut into k cells.

    centres: `(k,)`, the place of each cell's middle in raster order (the upper left one of two).
    weights: float32 `(k, rows * columns)`, each row the mean over a cell.
    """

    centres: Tensor
    weights: Tensor


@constants
def cells(rows: int, columns: int, k: int, device: torch.device) -> Cells:
    """A raster cut into k cells: bands of rows, each cut into nearly equal columns.

    As close to squares as k allows; where k = r · c with r/c = rows/columns, equal rectangles.

    >>> cells(4, 4, 4, torch.device("cpu")).centres.tolist()
    [0, 2, 8, 10]
    """
    bands = max(-(-k // columns), min(rows, k, round(math.sqrt(k * rows / columns))), 1)
    starts = [band * k // bands for band in range(bands + 1)]
    band = torch.arange(rows) * bands // rows
    each = torch.tensor([b - a for a, b in pairwise(starts)])
    wide = each[band]  # cells in a row's band
    label = torch.arange(columns) * wide[:, None] // columns + torch.tensor(starts)[band][:, None]
    inside = label.flatten() == torch.arange(k)[:, None]  # (k, rows * columns)
    weights = inside.float() / inside.sum(1, keepdim=True)
    across, down = inside.view(k, rows, columns).any(1), inside.view(k, rows, columns).any(2)
    return Cells((_middle(down) * columns + _middle(across)).to(device), weights.to(device))


def _middle(inside: Tensor) -> Tensor:
    """The middle of the True stretch of each row."""
    place = torch.arange(inside.shape[1])
    last = torch.where(inside, place, -1).amax(1)
    return (inside.long().argmax(1) + last) // 2


def proportional(total: int, sizes: list[int]) -> list[int]:
    """`total` shared out in proportion to `sizes`, the largest remainders rounded up.

    >>> proportional(10, [576, 1152])
    [3, 7]
    """
    exact = [total * size / sum(sizes) for size in sizes]
    shares = [math.floor(one) for one in exact]
    order = sorted(range(len(sizes)), key=lambda i: shares[i] - exact[i])
    for i in order[: total - sum(shares)]:
        shares[i] += 1
    return shares
