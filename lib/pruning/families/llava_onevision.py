"""LLaVA-OneVision: tiles packed into rows, shrunk if there are many; frames of videos pooled."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.models.llava_onevision.modeling_llava_onevision import (
    get_anyres_image_grid_shape,
    image_size_to_num_patches,
)

from ..engine.vision import VisionRecord
from .base import Layout
from .llava import Llava

#: what a packed row of numbers is: a newline, a patch of the base tile, of the tiles behind it
NEWLINE, BASE, RASTER = 0, 1, 2


class LlavaOnevision(Llava):
    """The base tile, then the tiles of the unpadded image as one raster, newlines behind rows.

    Large images are shrunk bilinearly between their tiles and the language model, frames of videos
    pooled bilinearly: such a token is a mix of up to four patches, and has the same mix of their
    tower states and attention. Every frame has a budget of its own; the newline behind a video
    belongs to its last frame.
    """

    model_types = ("llava_onevision",)
    title = "LLaVA-OneVision"
    modalities: ClassVar = {
        "image": ("image_token_id", "get_image_features"),
        "video": ("video_token_id", "get_video_features"),
    }

    def tokens_each(self) -> None:
        return None

    def grid(self) -> None:
        return None

    @property
    def _side(self) -> int:
        return self.config.vision_config.image_size // self.config.vision_config.patch_size

    # ---- videos -------------------------------------------------------------------------------

    def lengths(self, features: Any, record: VisionRecord) -> list[int]:
        if record.modality == "image":
            return super().lengths(features, record)
        videos, tokens = features.pooler_output.shape[:2]  # up to 5.17 without the newline
        each = math.ceil(self._side / 2) ** 2
        return ([each] * (tokens // each - 1) + [each + 1]) * videos

    def _frames(self, record: VisionRecord) -> list[Layout]:
        named = record.arguments  # up to 5.17 videos are called pixel_values, too
        videos, frames = named.get("pixel_values_videos", named.get("pixel_values")).shape[:2]
        side, pooled = self._side, math.ceil(self._side / 2)
        along = torch.arange(side, dtype=torch.float64)
        numbers = torch.cartesian_prod(along, along)
        # the model's own pooling, applied to the places of the patches instead of their features
        place, weights = _neighbours(self.inner.apply_pooling(numbers[None])[0], (side, side))
        source = place[..., 0] * side + place[..., 1]
        found = []
        for frame in range(videos * frames):
            tiles = torch.full((len(source),), frame)
            own = Layout(source + frame * side**2, (pooled, pooled), tiles, weights)
            found.append(_with_newline(own) if frame % frames == frames - 1 else own)
        return found

    # ---- images -------------------------------------------------------------------------------

    def rows_of_images(self, record: VisionRecord) -> list[int] | None:
        if record.modality == "video":
            return None
        together = record.arguments.get("batch_num_images")
        sizes = record.arguments["image_sizes"]
        # only the image of a prompt with one image is cut into tiles
        alone = [True] * len(sizes) if together is None else [
            n == 1 for n in torch.as_tensor(together).tolist() for _ in range(n)
        ]  # fmt: skip
        return [
            image_size_to_num_patches(
                image_size=size,
                grid_pinpoints=self.config.image_grid_pinpoints,
                patch_size=self.config.vision_config.image_size,
            )
            if cut
            else 1
            for size, cut in zip(sizes, alone)
        ]

    def layouts(self, record: VisionRecord) -> list[Layout]:
        if record.modality == "video":
            return self._frames(record)
        tiles, sizes = self.rows_of_images(record), record.arguments["image_sizes"]
        grids = [
            get_anyres_image_grid_shape(
                size, self.config.image_grid_pinpoints, self.config.vision_config.image_size
            )
            for size in sizes
        ]
        # the model's own packing, applied to the places of the patches instead of their features
        packed, _ = self.inner.pack_image_features(
            [self._places(count, grid[1]) for count, grid in zip(tiles, grids)],
            sizes,
            image_newline=torch.full((3,), NEWLINE, dtype=torch.float64),
            vision_aspect_ratio=record.arguments.get("vision_aspect_ratio")
            or self.config.vision_aspect_ratio,
        )
        first = [0, *accumulate(tiles)][:-1]
        found = [
            self._layout(places, start, grid) for places, start, grid in zip(packed, first, grids)
        ]
        if all(bool((one.weights[:, 0] == 1).all()) for one in found):  # nothing was shrunk
            return [one._replace(source=one.source[:, :1], weights=None) for one in found]
        return found

    def _places(self, tiles: int, wide: int) -> Tensor:
        """What each patch is, and its row and column in the base tile or the raster of the others.

        `(tiles, patches, 3)`; wide: tiles in a row of the raster.
        """
        side = self._side
        tile = torch.arange(tiles)[:, None, None].expand(tiles, side, side)
        place = torch.arange(side)
        behind = tile > 0
        rows = torch.where(behind, (tile - 1) // wide * side, 0) + place[:, None]
        columns = torch.where(behind, (tile - 1) % wide * side, 0) + place
        kind = torch.where(behind, RASTER, BASE)
        return torch.stack([kind, rows, columns], -1).flatten(1, 2).double()

    def _layout(self, places: Tensor, first: int, grid: tuple[int, int]) -> Layout:
        """Sources of the packed tokens of one image, whose tiles begin at row `first`."""
        side, (high, wide) = self._side, grid
        kind = places[:, 0].round().long()
        limit = (high * side, wide * side)
        place, weights = _neighbours(places[:, 1:], limit)
        tile = torch.where(
            kind[:, None] == RASTER, 1 + place[..., 0] // side * wide + place[..., 1] // side, 0
        )
        within = place % side
        source = ((first + tile) * side + within[..., 0]) * side + within[..., 1]
        lonely = kind == NEWLINE
        tiles = torch.where(lonely, -1, first + tile[:, 0])
        return Layout(source.masked_fill(lonely[:, None], -1), None, tiles, weights)


def _neighbours(places: Tensor, limit: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The patches that a point between patches mixes, and their shares.

    places `(N, 2)`, row and column; returns rows and columns `(N, 4, 2)` int64, weights `(N, 4)`.

    >>> place, weights = _neighbours(torch.tensor([[1.0, 0.25]]).double(), (2, 2))
    >>> place.tolist(), weights.tolist()
    ([[[1, 0], [1, 1], [1, 0], [1, 1]]], [[0.75, 0.25, 0.0, 0.0]])
    """
    low = (places + 1e-6).floor()
    share = (places - low).clamp(min=0)
    share = torch.where(share < 1e-6, 0, share)
    low = low.long()
    high = torch.minimum(low + 1, torch.tensor(limit) - 1)
    corners, weights = [], []
    for row, down in ((low, 1 - share), (high, share)):
        for column, right in ((low, 1 - share), (high, share)):
            corners.append(torch.stack([row[:, 0], column[:, 1]], 1))
            weights.append(down[:, 0] * right[:, 1])
    return torch.stack(corners, 1), torch.stack(weights, 1)


def _with_newline(frame: Layout) -> Layout:
    source = torch.cat([frame.source, frame.source.new_full((1, frame.source.shape[1]), -1)])
    weights = torch.cat([frame.weights, frame.weights[-1:]])
    tiles = torch.cat([frame.tiles, frame.tiles.new_full((1,), -1)])
    return Layout(source, frame.grid, tiles, weights)
