"""SmolVLM and Idefics3: tiles with words between them, shuffled to a few tokens each."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.received import received
from ..engine.vision import VisionRecord
from .base import Family, Layout, TowerAttention


class SmolVLM(Family):
    """SmolVLM, SmolVLM2 and Idefics3: every tile (frame) has a budget of its own.

    The prompt holds the row and column of each tile as words, which all stay. A token is a square
    of patches; a value a patch becomes their mean. Empty images, which fill up the batch, are
    dropped by the model and have no tokens. The padding of an image gets no attention, but has
    tokens.
    """

    model_types = ("smolvlm", "idefics3")
    title = "SmolVLM, Idefics3"

    def find_language(self) -> nn.Module:
        return self.inner.text_model

    def find_tower(self) -> nn.Module:
        return self.inner.vision_model

    def find_projector(self) -> nn.Module:
        return self.inner.connector

    def lengths(self, features: Any, record: VisionRecord) -> list[int]:
        tokens = super().lengths(features, record)
        if isinstance(features.pooler_output, Tensor):  # up to 5.17: one row a tile
            return tokens
        pixels = record.arguments.get("pixel_values")
        each = self.inner.image_seq_len if pixels is None else self._tokens(pixels)
        return [each] * (sum(tokens) // each)

    def _tokens(self, pixels: Tensor) -> int:
        patch = self.config.vision_config.patch_size
        return (pixels.shape[-2] // patch) * (pixels.shape[-1] // patch) // self._unit

    @property
    def _unit(self) -> int:
        return self.config.scale_factor**2

    def attention(self, block: int) -> TowerAttention:
        module = self.blocks()[block].self_attn
        own = super().attention(block)
        return dataclasses.replace(own, module=module, context=("attention_mask",))

    def received(self, record: VisionRecord, block: int, attention: TowerAttention) -> Tensor:
        queries, keys = (
            record.projections[block, name].unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            for name in "qk"
        )
        visible = record.context[block]["attention_mask"]
        if isinstance(visible, Tensor) and visible.ndim == 2:  # flash attention's: (rows, patches)
            visible = visible.bool()[:, None, None]
        return received(queries, keys, attention.scale, visible=visible) / queries.shape[2]

    def layouts(self, record: VisionRecord) -> list[Layout]:
        tiles, patches = record.images, self._tokens(record.arguments["pixel_values"]) * self._unit
        numbers = torch.arange(tiles * patches, dtype=torch.float64).view(tiles, patches, 1)
        # the model's own shuffle, applied to the numbers of the patches instead of their features
        sources = self.inner.connector.pixel_shuffle(numbers, self.config.scale_factor).long()
        side = int((patches // self._unit) ** 0.5)
        return [
            Layout(source, (side, side), torch.full((len(source),), tile))
            for tile, source in enumerate(sources)
        ]
