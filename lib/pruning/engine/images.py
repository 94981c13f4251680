"""Where the visual tokens of a prompt are, and what a method can ask about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .passes import Pass
    from .vision import VisionRecord


@dataclass(eq=False)
class ImageTokens:
    """The visual tokens of n images of one pass that have the same number N of tokens.

    rows `(n,)` and columns `(n, N)` locate them in the batch as it enters the pruning layer;
    ordinals numbers the images in reading order over the whole batch (row by row); origin `(n, N)`
    says which of the image's tokens they were before an earlier stage (None: all, in order), total
    how many each image had then.
    """

    rows: Tensor
    columns: Tensor
    ordinals: list[int]
    prefill: Pass = field(repr=False)
    origin: Tensor | None = None
    total: int = 0

    def __post_init__(self) -> None:
        self.total = self.total or self.tokens

    @property
    def count(self) -> int:
        """Number of images, n."""
        return self.columns.shape[0]

    @property
    def tokens(self) -> int:
        """Visual tokens of each image, N."""
        return self.columns.shape[1]

    def take(self, states: Tensor) -> Tensor:
        """`(batch, positions, ...)` at the image tokens: `(n, N, ...)`."""
        rows, columns = self.rows.to(states.device), self.columns.to(states.device)
        return states[rows[:, None], columns]

    @cached_property
    def hidden(self) -> Tensor:
        """Hidden states of the visual tokens as they enter the pruning layer, `(n, N, D)`."""
        return self.take(self.prefill.entering)

    @property
    def stage(self) -> int:
        """Which of the method's stages is at work, counted from 0."""
        return len(self.prefill.stages)

    @property
    def places(self) -> Tensor:
        """Where the tokens stood as the pass began, `(n, N)`."""
        stage = self.prefill.stage
        if stage is None or stage.columns is None:
            return self.columns
        columns = stage.columns.to(self.columns.device)[self.rows.to(self.columns.device)]
        return columns.gather(1, self.columns)

    @property
    def text_behind(self) -> Tensor:
        """The text that follows an image in its prompt, bool `(n, length)` over the whole pass."""
        text = self.prefill.text_mask.to(self.columns.device)
        place = torch.arange(text.shape[1], device=text.device)
        last = self.places.amax(1, keepdim=True)
        return text[self.rows.to(text.device)] & (place > last)

    @property
    def vision(self) -> VisionRecord:
        """What the vision tower did for these images.

        Raises `ValueError` if the features were computed outside of the with-block.
        """
        return self.prefill.seen_vision()

    def of_vision(self, per_image: Tensor) -> Tensor:
        """A tensor with one row an image of the vision tower, ordered as the images here.

        Beam search and several returned sequences repeat the prompt, not the vision tower's work.
        """
        rows, pass_ = per_image.shape[0], self.prefill
        if rows == self.count == pass_.images:
            return per_image
        index = [pass_.source_of(ordinal, rows) for ordinal in self.ordinals]
        return per_image.index_select(0, torch.as_tensor(index, device=per_image.device))

    def before(self, per_token: Tensor) -> Tensor:
        """`(n, N0, ...)` over the image's first tokens, at those that are left: `(n, N, ...)`."""
        if self.origin is None:
            return per_token
        place = self.origin.to(per_token.device)
        place = place.reshape(*place.shape, *[1] * (per_token.ndim - 2))
        return per_token.gather(1, place.expand(-1, -1, *per_token.shape[2:]))


def locate(
    image_mask: Tensor, lengths: list[int], each: int | None, device: torch.device | None = None
) -> tuple[Tensor, Tensor, list[int]]:
    """Rows and columns `(tokens,)` of all image tokens in reading order, and the row of each image.

    image_mask: bool `(batch, positions)`, on the CPU if the host may look at it; lengths: tokens of
    each image, in reading order; each: images in every row, for a mask that is elsewhere; device:
    where the answer is wanted (None: where the mask is).

    Raises `ValueError` if the prompt holds another number of image tokens, or an image would begin
    in one row and end in the next.
    """
    total = sum(lengths)
    if each is None or image_mask.device.type == "cpu":
        per_row = image_mask.sum(1).tolist()
        if sum(per_row) != total:
            raise ValueError(_mismatch(sum(per_row), lengths))
        # the copy is staged at once, so that nothing has to be waited for
        found = image_mask.nonzero().to(device or image_mask.device, non_blocking=True)
        rows, columns = found.unbind(1)
        return rows, columns, _rows_of(lengths, per_row)
    row_of = [ordinal // each for ordinal in range(len(lengths))]
    # finding their number would make the host wait
    order = image_mask.flatten().to(torch.uint8).sort(descending=True, stable=True)
    flat, width = order.indices[:total], image_mask.shape[1]
    return flat // width, flat % width, row_of


def in_reading_order(marks: list[Tensor], lengths: list[list[int]]) -> list[int]:
    """Tokens of each image as they stand in the prompt, where images and videos are mixed.

    marks: bool `(batch, positions)`, the placeholders of each modality; lengths: the tokens of each
    of its images.

    Raises `ValueError` if a modality has another number of placeholders than tokens.
    """
    starts: list[tuple[int, int]] = []
    for mark, own in zip(marks, lengths):
        flat = mark.flatten().nonzero().squeeze(1).tolist()
        if len(flat) != sum(own):
            raise ValueError(_mismatch(len(flat), own))
        starts += zip([flat[end - n] for end, n in zip(accumulate(own), own)], own)
    return [tokens for _, tokens in sorted(starts)]


def _mismatch(found: int, lengths: list[int]) -> str:
    return (
        f"the prompt holds {found} image tokens but its images have {sum(lengths)} "
        f"({_short(lengths)}): pass one placeholder for every visual token"
    )


def _rows_of(lengths: list[int], per_row: list[int]) -> list[int]:
    """The row of each image, given how many image tokens each row holds."""
    rows, row, left = [], 0, per_row[0] if per_row else 0
    for ordinal, length in enumerate(lengths):
        while left == 0 and row + 1 < len(per_row):
            row, left = row + 1, per_row[row + 1]
        if length > left:
            raise ValueError(
                f"row {row} of the batch has {left} placeholders left for image {ordinal}, which "
                f"has {length} visual tokens: an image lies in one prompt"
            )
        rows.append(row)
        left -= length
    return rows


def _short(lengths: list[int]) -> str:
    shown = ", ".join(map(str, lengths[:8]))
    return shown + (", ..." if len(lengths) > 8 else "")


def grouped(rows: Tensor, columns: Tensor, lengths: list[int], prefill: Pass) -> list[ImageTokens]:
    """The images of a pass in groups of equal length; `rows`, `columns` as `locate` gives them."""
    if len(set(lengths)) == 1:
        places = columns.view(len(lengths), lengths[0])
        first = rows.view(len(lengths), lengths[0])[:, 0]
        return [ImageTokens(first, places, list(range(len(lengths))), prefill)]
    place_of, row_of = columns.split(lengths), rows.split(lengths)
    groups = []
    for tokens in sorted(set(lengths)):
        members = [i for i, length in enumerate(lengths) if length == tokens]
        places = torch.stack([place_of[i] for i in members])
        first = torch.stack([row_of[i][0] for i in members])
        groups.append(ImageTokens(first, places, members, prefill))
    return groups
