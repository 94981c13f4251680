"""LLaVA-NeXT: an image is several tiles, packed into rows with a newline at the end of each."""

from __future__ import annotations

from itertools import accumulate

import torch
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from ..engine.vision import VisionRecord
from .base import Layout
from .llava import Llava


class LlavaNext(Llava):
    """The base tile first, then the tiles of the unpadded image as one raster."""

    model_types = ("llava_next",)
    title = "LLaVA-NeXT"

    def tokens_each(self) -> None:
        return None

    def grid(self) -> None:
        return None

    def rows_of_images(self, record: VisionRecord) -> list[int]:
        return [
            image_size_to_num_patches(
                image_size=size,
                grid_pinpoints=self.config.image_grid_pinpoints,
                patch_size=self.config.vision_config.image_size,
            )
            for size in record.arguments["image_sizes"]
        ]

    def layouts(self, record: VisionRecord) -> list[Layout]:
        tiles = self.rows_of_images(record)
        patches = self.patches() + self.class_tokens - self.skipped
        first = [0, *accumulate(tiles)][:-1]
        # the model's own packing, applied to the numbers of the patches instead of their features
        numbered = [
            (torch.arange(start * patches, (start + count) * patches, dtype=torch.float64) + 1)
            .view(count, patches, 1)
            for start, count in zip(first, tiles)
        ]  # fmt: skip
        packed, _ = self.inner.pack_image_features(
            numbered,
            record.arguments["image_sizes"],
            vision_feature_select_strategy=self.config.vision_feature_select_strategy,
            image_newline=torch.zeros(1, dtype=torch.float64),
        )
        sources = [image.long() - 1 for image in packed]
        return [
            Layout(source, None, torch.where(source >= 0, source // patches, -1).squeeze(1))
            for source in sources
        ]
