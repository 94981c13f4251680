"""Qwen2.5-VL: patches of any number in windows, merged two by two; positions in three rows."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.vision_utils import get_vision_window_index

from ..engine.received import received_in_segments
from ..engine.vision import VisionRecord
from .base import Family, Layout, Projection, TowerAttention


class QwenVision(Family):
    """Qwen's towers: all patches of a call are one packed sequence without a class token.

    Every frame of a video is an image with a budget of its own: `grid_thw` has one entry an image,
    whose first number counts frames. A token is a square of patches; a value a patch becomes their
    mean. Attention stays within the segments that the block was given (`cu_seqlens`: a frame, or a
    window of it), and what a patch receives is divided by the patches of its frame.
    """

    modalities: ClassVar = {
        "image": ("image_token_id", "get_image_features"),
        "video": ("video_token_id", "get_video_features"),
    }
    plain_positions = False

    def find_tower(self) -> nn.Module:
        return self.inner.visual

    # ---- frames -------------------------------------------------------------------------------

    @property
    def merge(self) -> int:
        """Patches along a side of the square that a token is made of."""
        return self.tower.spatial_merge_size

    def lengths(self, features: Any, record: VisionRecord) -> list[int]:
        pooled, grid = features.pooler_output, record.arguments.get(f"{record.modality}_grid_thw")
        # beams repeat the very tensors, but nothing that says how many frames each one is
        known = record.extra.setdefault("frames", {})
        if not known and grid is not None and len(grid) == len(pooled):
            counts = [[h * w // self.merge**2] * t for t, h, w in torch.as_tensor(grid).tolist()]
            known |= {id(own): (own, tokens) for own, tokens in zip(pooled, counts)}
        return [n for own in pooled for n in known.get(id(own), (own, [len(own)]))[1]]

    def _frames(self, record: VisionRecord) -> list[tuple[int, int]]:
        grid = torch.as_tensor(record.arguments[f"{record.modality}_grid_thw"]).tolist()
        return [(h, w) for t, h, w in grid for _ in range(t)]

    def rows_of_images(self, record: VisionRecord) -> list[int]:
        return [h * w for h, w in self._frames(record)]

    def rotary(self, states: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        # time, height and width of a word are one
        return super().rotary(states, positions.expand(3, -1, -1))

    # ---- the tower ----------------------------------------------------------------------------

    def blocks(self) -> list[nn.Module]:
        return list(self.tower.blocks)

    def attention(self, block: int) -> TowerAttention:
        module = self.blocks()[block].attn
        width = module.proj.in_features
        query, key, value = (
            Projection(module.qkv, slice(i * width, (i + 1) * width)) for i in range(3)
        )
        return TowerAttention(
            query, key, value, module.num_heads, module.scaling, module,
            ("cu_seqlens", "position_embeddings"),
        )  # fmt: skip

    def patch_rows(self, states: Tensor) -> Tensor:
        return states[None]

    def received(self, record: VisionRecord, block: int, attention: TowerAttention) -> Tensor:
        context = record.context[block]
        queries, keys = (
            record.projections[block, name].unflatten(-1, (attention.heads, -1)) for name in "qk"
        )
        code = sys.modules[type(attention.module).__module__]
        rotary = context["position_embeddings"]
        queries, keys = code.apply_rotary_pos_emb_vision(queries, keys, *rotary)
        bounds = context["cu_seqlens"].tolist()
        total = received_in_segments(queries, keys, attention.scale, bounds)
        sizes = torch.tensor(self.rows_of_images(record))
        return total / sizes.repeat_interleave(sizes).to(total.device)

    def order(self, record: VisionRecord) -> Tensor:
        """`(tokens,)`: the place of each token, in reading order, among the tower's squares."""
        return torch.arange(sum(self.rows_of_images(record)) // self.merge**2)

    def layouts(self, record: VisionRecord) -> list[Layout]:
        unit = self.merge**2
        source = self.order(record)[:, None] * unit + torch.arange(unit)
        sizes = [patches // unit for patches in self.rows_of_images(record)]
        return [
            Layout(own, (h // self.merge, w // self.merge), torch.full((len(own),), number))
            for number, (own, (h, w)) in enumerate(zip(source.split(sizes), self._frames(record)))
        ]


class Qwen25VL(QwenVision):
    """Qwen2.5-VL: most blocks see windows, for which the tower permutes the squares of patches."""

    model_types = ("qwen2_5_vl",)
    title = "Qwen2.5-VL"

    def order(self, record: VisionRecord) -> Tensor:
        tower = self.tower
        grid = torch.as_tensor(record.arguments[f"{record.modality}_grid_thw"]).cpu()
        windows, _ = get_vision_window_index(
            grid, spatial_merge_size=self.merge, window_size=tower.window_size,
            patch_size=tower.patch_size,
        )  # fmt: skip
        return windows.argsort()
