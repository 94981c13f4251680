"""A control: tokens on a uniform grid, whatever the image shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .engine.images import ImageTokens
from .engine.pruner import VisualPruner
from .engine.rasters import cells, proportional, rasters, require_raster


@dataclass(eq=False, kw_only=True)
class UniformGrid(VisualPruner, name="grid"):
    """Keeps the middle token of every cell of a uniform division of the image.

    The raster is cut into exactly T cells, as square as T allows (see `engine.rasters.cells`), so
    the count is exact: 64 of 24 x 24 tokens are every third of every third row. Where an image has
    two rasters (LLaVA-NeXT: the whole image, and its tiles put together) each has its share;
    newlines stay only where every other token does. What a method adds to this is what it sees.

    Raises `TypeError` for families whose tokens form no raster.
    """

    positions: Literal["original", "contiguous"] = "contiguous"

    vision_only = True

    def attach(self, model: nn.Module) -> None:
        require_raster(self.family)

    def select(self, images: ImageTokens) -> Tensor:
        budget = self.budget(images.tokens)
        device = images.columns.device
        chosen = []
        for own in rasters(images, self.family):
            sizes = [one.numel() for one in own]
            shares = proportional(min(budget, sum(sizes)), sizes)
            mask = torch.zeros(images.tokens, dtype=torch.bool, device=device)
            for raster, share in zip(own, shares):
                if share:
                    rows, columns = raster.shape
                    centres = cells(rows, columns, share, device).centres
                    mask.index_fill_(0, raster.flatten()[centres], True)
            chosen.append(filled(mask, budget - sum(shares)))
        return torch.stack(chosen)


def filled(mask: Tensor, more: int) -> Tensor:
    """The first `more` places that are not kept yet, kept too."""
    return mask if not more else mask | ((~mask).cumsum(0) <= more) & ~mask
