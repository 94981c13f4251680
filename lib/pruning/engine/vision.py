"""What the vision tower did for one call of `get_image_features`.

A record is made when the features are computed and travels with them: images encoded before the
prompt is read, features used twice, and several threads keep to their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

#: the attribute of transformers' output object that carries the record
ATTRIBUTE = "visual_pruning_record"


@dataclass(eq=False)
class VisionRecord:
    """States and projections of the tower for the images of one call, as the hooks saw them.

    arguments: what was passed to `get_image_features`, by name. images: how many it encoded.
    modality: "image" or "video".
    pixels: one int64 hash of the pixels of every row the tower encoded (an image, a tile, a patch).
    hidden: `{layer: states}`, the tower's hidden states (0: its embeddings), class token included.
    projections: `{(block, "q" | "k" | "v"): output}` of attention blocks. context: `{block: what
        the block was called with}`, as far as `TowerAttention.context` names it.
    extra: whatever else a family or a method keeps for these images.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)
    images: int = 0
    modality: str = "image"
    pixels: Tensor | None = None
    hidden: dict[int, Tensor] = field(default_factory=dict, repr=False)
    projections: dict[tuple[int, str], Tensor] = field(default_factory=dict, repr=False)
    context: dict[int, dict[str, Any]] = field(default_factory=dict, repr=False)
    extra: dict[str, Any] = field(default_factory=dict, repr=False)


def record_of(features: Any) -> VisionRecord | None:
    """The record that the output of `get_image_features` carries, None if it was made elsewhere."""
    return getattr(features, ATTRIBUTE, None)


def attach(features: Any, record: VisionRecord) -> None:
    """Let the output of `get_image_features` carry its record."""
    object.__setattr__(features, ATTRIBUTE, record)
