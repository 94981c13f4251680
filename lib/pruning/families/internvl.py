"""InternVL: tiles of equal size, whose patches a pixel shuffle puts together in fours."""

from __future__ import annotations

import torch
from torch import nn

from ..engine.vision import VisionRecord
from .base import Family, Layout, Projection, TowerAttention


class InternVL(Family):
    """InternVL 2 to 3.5 of transformers: every tile, the thumbnail too, has a budget of its own.

    Nothing in the model's inputs says which tiles make an image; at one keep rate each tile gives
    its share. A token is a square of patches; a value a patch becomes their mean. The class token
    ranks the patches, but is no visual token.
    """

    model_types = ("internvl",)
    title = "InternVL"

    @property
    def class_tokens(self) -> int:
        return 1

    @property
    def skipped(self) -> int:
        return int(self.config.vision_feature_select_strategy == "default")

    def blocks(self) -> list[nn.Module]:
        return list(self.tower.encoder.layer)

    def attention(self, block: int) -> TowerAttention:
        module = self.blocks()[block].attention
        query, key = Projection(module.q_norm), Projection(module.k_norm)
        return TowerAttention(query, key, Projection(module.v_proj), module.num_heads, module.scale)

    def layouts(self, record: VisionRecord) -> list[Layout]:
        tiles, side = record.images, self._side(record)
        numbers = torch.arange(tiles * side**2, dtype=torch.float64).view(tiles, side, side, 1)
        # the model's own shuffle, applied to the numbers of the patches instead of their features
        ratio = self.config.downsample_ratio
        sources = self.inner.pixel_shuffle(numbers, scale_factor=ratio).flatten(1, 2).long()
        grid = (int(side * ratio),) * 2
        return [
            Layout(source, grid, torch.full((len(source),), tile))
            for tile, source in enumerate(sources)
        ]

    def _side(self, record: VisionRecord) -> int:
        vision = self.config.vision_config
        return record.arguments["pixel_values"].shape[-1] // vision.patch_size[-1]
