"""A control: a smaller picture. Whatever prunes tokens should do better than fewer pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .engine.images import ImageTokens
from .engine.pruner import VisualPruner
from .engine.rasters import cells
from .engine.release import arguments, parameters


@dataclass(eq=False, kw_only=True)
class Downsample(VisualPruner, name="downsample"):
    """The picture is shrunk before the tower, so that it has fewer patches.

    Pixels are scaled down (bicubic, with an anti-aliasing filter) to r x c patches, and the tower
    interpolates its position embeddings to that grid, as it does for pictures of another size: the
    tower, too, computes less. r and c come as close to the budget as a grid with nearly the
    picture's proportions can, r = ⌊√(T · rows / columns)⌋ and c = ⌊T / r⌋, never above it: 192 of
    24 x 24 tokens are 13 x 14 = 182. Tokens stand at the places of the middle tokens of r x c
    cells, as in `pool`.

    This is what a user without any method would do. The alternative, to shrink and enlarge again
    and then keep some tokens, would spend the tower's time and see no more.

    Raises `TypeError` for models whose tower cannot interpolate its positions, and for those that
    cut images into tiles, where fewer tiles (the processor's grid) are the control.
    """

    positions: Literal["original", "contiguous"] = "contiguous"

    exact = False
    bounded = True
    supports = frozenset({"llava"})
    uses_own_vision = True
    vision_only = True
    merges = True
    scorer = ("shrink",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.only_ahead("shrinks the picture")

    def most(self, tokens: int) -> int:
        return math.prod(self.grid_of(tokens))

    def grid_of(self, tokens: int) -> tuple[int, int]:
        """Rows and columns of patches of the smaller picture, for a square of `tokens`."""
        side = math.isqrt(tokens)
        budget = self.budget(tokens)
        rows = max(1, min(side, math.isqrt(budget)))
        return rows, min(side, budget // rows)

    def attach(self, model: nn.Module) -> None:
        family = self.family
        if family.grid() is None:
            raise TypeError(
                "Downsample needs vision_feature_select_strategy='default' (patches only)"
            )
        if "interpolate_pos_encoding" not in parameters(family.tower):
            raise TypeError(
                f"Downsample needs a tower that interpolates its position embeddings; "
                f"{type(family.tower).__name__} does not"
            )
        self._side = family.grid()[0]
        self._grid = self.grid_of(self._side**2)
        self._patch = family.config.vision_config.patch_size
        if not self.keeps_all:
            self.hook(family.tower, self._smaller, before=True)
            self.hook(family.projector, self._to_raster, before=False)

    def _smaller(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if self._current.record is None:
            return None
        named = arguments(module, args, kwargs)
        pixels = named["pixel_values"]
        if tuple(pixels.shape[-2:]) != (self._side * self._patch,) * 2:
            return None  # the tower says what is wrong
        return (), named | {"pixel_values": self.shrink(pixels), "interpolate_pos_encoding": True}

    def shrink(self, pixels: Tensor) -> Tensor:
        """`(n, 3, height, width)` as `(n, 3, r * patch, c * patch)`."""
        size = [side * self._patch for side in self._grid]
        small = interpolate(pixels.float(), size, mode="bicubic", antialias=True)
        return small.to(pixels.dtype)

    def _places(self, device: torch.device) -> Tensor:
        rows, columns = self._grid
        across, down = (cells(1, self._side, n, device).centres for n in (columns, rows))
        return (down[:, None] * self._side + across).flatten()

    def _to_raster(
        self, module: nn.Module, args: tuple, kwargs: dict, out: Tensor
    ) -> Tensor | None:
        if self._current.record is None:
            return None
        slots = out.new_zeros(out.shape[0], self._side**2, out.shape[-1])
        return slots.index_copy(1, self._places(out.device), out)

    def select(self, images: ImageTokens) -> Tensor:
        mask = torch.zeros(images.columns.shape, dtype=torch.bool, device=images.columns.device)
        return mask.index_fill_(1, self._places(mask.device), True)
