"""A kept set given by the caller: for comparisons, demonstrations and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .engine.images import ImageTokens
from .engine.pruner import VisualPruner


@dataclass(eq=False, kw_only=True)
class FixedPrune(VisualPruner):
    """Keeps the visual tokens the caller names, one index sequence per image of a prefill.

    Not a method to compare (so it is not registered), but the way to hold a kept set fixed while
    something else changes: the mode, the layer, the cache.

    Raises `ValueError` if the indices do not fit the images.
    """

    indices: Sequence[Sequence[int]] = ()
    exact = False

    @property
    def keeps_all(self) -> bool:
        return False

    def select(self, images: ImageTokens) -> Tensor:
        given = len(self.indices)
        mask = torch.zeros_like(images.columns, dtype=torch.bool)
        for row, ordinal in enumerate(images.ordinals):
            which = self.indices[images.prefill.source_of(ordinal, given)]
            chosen = torch.as_tensor(which, device=mask.device).long()
            if len(chosen) == 0 or chosen.min() < 0 or chosen.max() >= images.tokens:
                raise ValueError(
                    f"indices of image {ordinal} must lie in 0..{images.tokens - 1} and not be "
                    f"empty, got {chosen.tolist()}"
                )
            mask[row, chosen] = True
        return mask
