"""A kept set given by the caller: for comparisons, demonstrations and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import ImageTokens, VisualPruner


@dataclass(eq=False, kw_only=True)
class FixedPrune(VisualPruner):
    """Keeps the visual tokens the caller names, one index sequence per image of a prefill.

    Not a method to compare (so it is not registered), but the way to hold a kept set fixed while
    something else changes: the mode, the layer, the cache.
    """

    indices: Sequence[Sequence[int]] = ()
    exact = False

    @property
    def keeps_all(self) -> bool:
        return False

    def select(self, images: ImageTokens) -> Tensor:
        given = len(self.indices)
        total = sum(images.prefill.images_per_row)
        if not given or total % given:
            raise ValueError(f"indices name {given} images but the prompt has {total}")
        mask = torch.zeros_like(images.columns, dtype=torch.bool)
        for row, ordinal in enumerate(images.ordinals):
            chosen = torch.as_tensor(
                self.indices[images.prefill.vision_row(ordinal, given)], device=mask.device
            ).long()
            if len(chosen) == 0 or chosen.min() < 0 or chosen.max() >= images.tokens:
                raise ValueError(
                    f"indices of image {ordinal} must lie in 0..{images.tokens - 1} and not be "
                    f"empty, got {chosen.tolist()}"
                )
            mask[row, chosen] = True
        return mask
