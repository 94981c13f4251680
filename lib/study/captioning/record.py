"""What goes into captioning and what comes out of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired, Protocol, TypedDict


class Record(TypedDict):
    """What one image leaves behind.

    `kept` of the `visual_tokens` visual tokens reached the end of the language model; `seconds` is
    the batch's wall time divided by its images, data preparation not included.
    """

    image_id: int
    caption: str
    kept: int
    visual_tokens: int
    kept_indices: NotRequired[list[int]]
    token_ids: NotRequired[list[int]]
    seconds: float


class ExampleLike(Protocol):
    """An image on disk: `lib.study.data.coco.Example`, or anything with these attributes."""

    image_id: int
    path: Path
    references: Sequence[str]


Batch = Sequence[ExampleLike]
