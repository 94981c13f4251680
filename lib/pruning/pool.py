"""A control: average pooling of the grid of visual tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .engine.images import ImageTokens
from .engine.pruner import VisualPruner
from .engine.rasters import cells, proportional, rasters, require_raster
from .engine.sequence import Chosen
from .grid import filled


@dataclass(eq=False, kw_only=True)
class AveragePool(VisualPruner, name="pool"):
    """Means of the tokens in every cell of a uniform division of the image.

    The raster is cut into exactly T cells, as square as T allows (`engine.rasters.cells`); where T
    divides it into equal rectangles this is average pooling with that kernel and stride, else
    cells differ by a row or a column and, unlike adaptive pooling, never overlap. Tokens are pooled
    as they enter the pruning layer: behind the projector at layer 0. A mean stands in the place of
    its cell's middle token, the one that `grid` would keep. Rasters and newlines as in `grid`.

    Raises `TypeError` for families whose tokens form no raster.
    """

    positions: Literal["original", "contiguous"] = "contiguous"

    merges = True

    @property
    def vision_only(self) -> bool:
        return self.layer == 0

    def attach(self, model: nn.Module) -> None:
        require_raster(self.family)

    def select(self, images: ImageTokens) -> Chosen:
        budget = self.budget(images.tokens)
        hidden = images.hidden
        indices, states = [], []
        for tokens, own in zip(hidden, rasters(images, self.family)):
            index, made = self._pooled(tokens, own, budget)
            order = index.argsort()
            indices.append(index[order])
            states.append(made[order])
        return Chosen(torch.stack(indices), torch.stack(states))

    def _pooled(self, tokens: Tensor, own: list[Tensor], budget: int) -> tuple[Tensor, Tensor]:
        """Places `(budget,)` and states `(budget, D)` of one image's tokens `(N, D)`."""
        sizes, device = [one.numel() for one in own], tokens.device
        shares = proportional(min(budget, sum(sizes)), sizes)
        index, states = [], []
        for raster, share in zip(own, shares):
            if share:
                rows, columns = raster.shape
                centres, weights = cells(rows, columns, share, device)
                places = raster.flatten().to(device)
                index.append(places[centres])
                states.append((weights @ tokens[places].float()).to(tokens.dtype))
        if more := budget - sum(shares):
            real = torch.zeros(len(tokens), dtype=torch.bool, device=device)
            real.index_fill_(0, torch.cat(index), True)
            rest = (filled(real, more) & ~real).to(torch.uint8)
            index.append(rest.sort(descending=True, stable=True).indices[:more])
            states.append(tokens[index[-1]])
        return torch.cat(index), torch.cat(states)
