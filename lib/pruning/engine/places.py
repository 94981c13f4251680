"""Where in the picture the visual tokens lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .images import ImageTokens
from .tower import layouts_of

if TYPE_CHECKING:
    from ..families import Family, Layout


def coordinates(images: ImageTokens, family: Family) -> Tensor:
    """Row and column of every visual token in its raster, float32 `(n, N, 2)`.

    Separators lie behind the last token of their row. Where an image is a base tile and a finer
    raster of the same picture, the finer one is scaled to the base tile's extent. Tokens of no
    known raster lie on a line.
    """
    grid = family.grid()
    if grid is not None:
        where = _raster(images.total, grid[1], images.columns.device)
        where = where.expand(images.count, -1, -1)
    else:
        where = torch.stack([_of_image(images, family, ordinal) for ordinal in images.ordinals])
    return images.before(where.to(images.columns.device))


def _raster(tokens: int, columns: int, device: torch.device | None = None) -> Tensor:
    place = torch.arange(tokens, device=device)
    return torch.stack([place // columns, place % columns], -1).float()


def _of_image(images: ImageTokens, family: Family, ordinal: int) -> Tensor:
    layouts = layouts_of(family, images.vision)
    if layouts is None:
        return _raster(images.total, images.total)
    return _of_layout(layouts[images.prefill.encoded(ordinal)])


def _of_layout(layout: Layout) -> Tensor:
    apart = layout.source[:, 0].cpu() < 0
    if layout.grid is not None:
        real = _raster(int((~apart).sum()), layout.grid[1])
        return _between(real, apart)
    tiles = layout.tiles.cpu()
    base = int((tiles == tiles[0]).long().cumprod(0).sum())
    side = int(base**0.5)
    if side * side != base or not bool(apart[base:].any()):
        return _raster(len(apart), len(apart))
    return torch.cat([_raster(base, side), _rows(apart[base:], side)])


def _between(real: Tensor, apart: Tensor) -> Tensor:
    """Coordinates of the tokens, and one column behind the token in front for each separator."""
    before = (~apart).long().cumsum(0) - 1
    where = real[before.clamp(min=0)]
    where[apart, 1] += 1
    return where


def _rows(apart: Tensor, side: int) -> Tensor:
    """Rows that end with a separator, scaled to a square of `side`."""
    row = apart.long().cumsum(0) - apart.long()
    place = torch.arange(len(apart))
    start = torch.zeros(int(row.max()) + 1, dtype=torch.int64)
    start.scatter_reduce_(0, row, place, "amin", include_self=False)
    column = place - start[row]
    height, width = row.max() + 1, max(1, int(column[~apart].max()) + 1)
    return torch.stack([row * (side / height), column * (side / width)], -1).float()
