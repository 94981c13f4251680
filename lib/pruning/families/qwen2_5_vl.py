"""Qwen2.5-VL: patches of any number in windows, merged two by two; positions in three rows."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.vision_utils import get_vision_window_index

from ..engine.received import received_in_segments
from ..engine.vision import VisionRecord
from .base import Family, Layout, Projection, TowerAttention


class QwenVision(Family):
    """What Qwen's towers share: all patches of a call are one packed sequence without a class token.

    Every frame of a video is an image with a budget of its own: `grid_thw` has one entry an image,
    whose first number counts frames. A token is a square of patches; a value a patch becomes their
    mean. Attention stays within the segments that the block was given (`cu_seqlens`: a frame, or a
    window of it), and what a patch receives is divided by the patches of its frame.
    """

    modalities = {
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

    def lengths(self, modality: str, features: Any, arguments: Mapping[str, Any]) -> list[int]:
        frames = frames_of(arguments.get(f"{modality}_grid_thw"))
        if frames is None:  # nobody says how many frames there are
            return super().lengths(modality, features, arguments)
        return [h * w // self.merge**2 for h, w in frames]

    def _frames(self, record: VisionRecord) -> list[tuple[int, int]]:
        return frames_of(record.arguments[f"{record.modality}_grid_thw"])

    def rows_of_images(self, record: VisionRecord) -> list[int]:
        return [h * w for h, w in self._frames(record)]

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


def frames_of(grid: Any) -> list[tuple[int, int]] | None:
    """Height and width, in patches, of every frame of `grid_thw`."""
    if grid is None:
        return None
    return [(int(h), int(w)) for t, h, w in torch.as_tensor(grid).tolist() for _ in range(int(t))]


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
