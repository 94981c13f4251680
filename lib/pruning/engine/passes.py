"""One forward pass of the model while a pruner is active, from its first to its last layer.

Everything a hook stores belongs to the pass, or to the features it reads, and goes with it: nothing
reaches the next pass, another thread, or survives an exception.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from .cache import PrunedState, Segment
from .images import ImageTokens
from .vision import VisionRecord, record_of


@dataclass(eq=False)
class Pass:
    """What is known of one forward pass.

    length, past: positions of this pass, and tokens the model was given before it.
    state: what earlier passes pruned. drafts: how many of the last positions are only drafts.
    whole: the caller's attention mask over all tokens given so far, bool `(batch, past + length)`;
        None: all are visible. valid: its part over the new positions.
    image_mask: bool `(batch, length)`, True for image tokens; None: no image in this pass.
    features: what the vision tower encoded for it, with the modality.
    arguments, marks: what the model was called with, and where the placeholders of each modality
        are (on the CPU, but while a graph is captured), until the images are found.
    lengths, row_of: visual tokens and row of each image, in reading order. groups: the images as
        they enter the next stage. entering: the hidden states that enter the stage at work; ahead:
        the layer behind that stage. extra: whatever else a method keeps for the pass.
    """

    length: int
    past: int
    batch: int
    state: PrunedState | None
    drafts: int = 0
    ids: Tensor | None = field(default=None, repr=False)
    whole: Tensor | None = None
    valid: Tensor | None = None
    image_mask: Tensor | None = None
    features: list[tuple[str, Any]] = field(default_factory=list, repr=False)
    arguments: dict[str, Any] = field(default_factory=dict, repr=False)
    marks: dict[str, Tensor] = field(default_factory=dict, repr=False)
    lengths: list[int] = field(default_factory=list)
    encoded_images: int = 0
    row_of: list[int] = field(default_factory=list)
    groups: list[ImageTokens] = field(default_factory=list)
    entering: Tensor | None = field(default=None, repr=False)
    ahead: Ahead | None = field(default=None, repr=False)
    attention: dict[int, Any] = field(default_factory=dict, repr=False)
    stages: list[Stage] = field(default_factory=list, repr=False)
    doubts: list[Doubt] = field(default_factory=list, repr=False)
    masks: list[dict[int, Tensor]] = field(default_factory=list, repr=False)
    cache: Any = field(default=None, repr=False)
    extra: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def images(self) -> int:
        """Images of this pass, copies for beams counted."""
        return len(self.lengths)

    @property
    def images_per_row(self) -> list[int]:
        counts = [0] * self.batch
        for row in self.row_of:
            counts[row] += 1
        return counts

    @property
    def stage(self) -> Stage | None:
        """The last stage the pass has gone through."""
        return self.stages[-1] if self.stages else None

    def source_of(self, ordinal: int, count: int) -> int:
        """Which of `count` images image `ordinal` is, or is a copy of.

        Beam search and several returned sequences repeat whole prompts, one copy after another.

        Raises `ValueError` if the images of the prompt are no copies of so many.
        """
        if count == self.images:
            return ordinal
        copies, rest = divmod(self.images, max(count, 1))
        if rest or not count:
            raise ValueError(
                f"the prompt has {self.images} images, but {count} are given for them: give one "
                "for each image of the prompt, or for each before it was repeated"
            )
        seen = before = 0
        for row, own in enumerate(self.images_per_row):
            if ordinal < seen + own:
                return before + ordinal - seen
            seen += own
            if row % copies == copies - 1:
                before += own
        raise AssertionError("unreachable: ordinal beyond the images of the prompt")

    def encoded(self, ordinal: int) -> int:
        """The image among those the vision tower encoded that image `ordinal` is (a copy of)."""
        return self.source_of(ordinal, self.encoded_images)

    def seen_vision(self) -> VisionRecord:
        """The record of the features of this pass; see `ImageTokens.vision`."""
        records = [record_of(features) for _, features in self.features]
        if len(records) > 1:
            raise ValueError(
                "this prompt holds images and videos, whose towers' states cannot be ranked "
                "together; use a method that looks at the language model (source='language')"
            )
        if not records or records[0] is None:
            raise ValueError(
                "the image features were computed outside of the with-block, so nothing is known "
                "of what the vision tower saw: pass pixel_values, or compute them inside the block"
            )
        return records[0]

    @property
    def now(self) -> int:
        """Positions of the sequence as the current layer sees it."""
        stage = self.stage
        return self.length if stage is None or stage.columns is None else stage.columns.shape[1]

    def text(self) -> tuple[Tensor, Tensor]:
        """Where the prompt's text is now: positions `(batch, q)` and bool `(batch, q)`.

        Rows with less text than q, and drafts, are filled up with False. q needs no look at the
        device: it is what rows hold beside their visual tokens.
        """
        own = [0] * self.batch
        for row, count in zip(self.row_of, self.lengths):
            own[row] += count
        text = self.at_present(self.text_mask)
        order = text.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices
        order = order[:, : self.length - self.drafts - min(own)]
        return order, text.gather(1, order)

    @cached_property
    def text_mask(self) -> Tensor:
        """Bool `(batch, length)`: neither visual token, padding nor draft."""
        text = ~self.image_mask
        if self.valid is not None:
            text = text & self.valid.to(text.device)
        return text & (torch.arange(self.length, device=text.device) < self.length - self.drafts)

    def at_present(self, per_place: Tensor, rows: Tensor | None = None) -> Tensor:
        """Bool `(n, length)` over the places of the pass: over the positions that are left.

        rows: `(n,)`, the row of the batch each line belongs to; None: all rows, in order.
        """
        columns = None if self.stage is None else self.stage.columns
        if columns is None:
            return per_place
        columns = columns.to(per_place.device)
        columns = columns if rows is None else columns[rows.to(columns.device)]
        return per_place.gather(1, columns.clamp(min=0)) & (columns >= 0)

    @property
    def visible(self) -> Tensor | None:
        """Which of the positions as the current layer sees them are visible; None: all."""
        return self.valid if self.stage is None else self.stage.key_mask

    def last(self, device: torch.device) -> Tensor:
        """The current position of each row's last prompt token, `(batch,)`; drafts do not count.

        Whatever was dropped lies before it, and rows end together.
        """
        asked = self.length - self.drafts
        gone = self.length - self.now
        if self.valid is None:
            return torch.full((self.batch,), asked - 1 - gone, device=device)
        place = torch.arange(asked, device=self.valid.device)
        return (place * self.valid[:, :asked]).argmax(1).to(device) - gone


@dataclass(eq=False)
class Stage:
    """What the layers from `layer` on are given in one pass.

    columns: `(batch, positions)`, the places that are left in the sequence of the whole pass, -1
        for filling; None: all, in order. filled: True if there is filling.
    hidden: `(batch, positions)` bool, True for what mask mode hides; None: nothing.
    key_mask: `(batch, positions)` bool over the new positions; None: all are visible.
    held: keys of earlier passes that the layers hold.
    ids: position ids `(batch, positions)` if they were renumbered; shift: by how much the tokens
        behind have moved to the front, `(batch, 1)`.
    mask: for the model's attention; given: the arguments that layers get instead of the model's.
    """

    layer: int
    columns: Tensor | None = None
    filled: bool = False
    hidden: Tensor | None = None
    key_mask: Tensor | None = None
    held: int = 0
    ids: Tensor | None = None
    shift: Tensor | None = None
    segment: Segment | None = None
    mask: Any = field(default=None, repr=False)
    given: dict[torch.device, dict[str, Any]] = field(default_factory=dict, repr=False)


@dataclass(eq=False)
class Ahead:
    """The layer that runs next, before the stage at work has changed what it is given.

    rotary: its rotary tables for the positions as they enter the stage. keys: those it holds of
    earlier passes `(batch, heads, held, width)`, None for none; past_valid: which of them may be
    seen, bool `(batch, held)`, None for all.
    """

    layer: nn.Module
    rotary: tuple[Tensor, Tensor]
    keys: Tensor | None = None
    past_valid: Tensor | None = None


@dataclass(eq=False)
class Doubt:
    """Something that must be true of every image, read back from the device after the pass.

    found: `(n,)`; holds: what must be true of each; message: what to say of the first that fails.
    """

    found: Tensor
    holds: Callable[[float], bool]
    message: Callable[[int], str]

    def settle(self, values: Sequence[float]) -> None:
        """Raise `ValueError` for the first of what was found, now on the host, that is not true."""
        for i, value in enumerate(values):
            if not self.holds(value):
                raise ValueError(self.message(i))


@dataclass(eq=False)
class Kept:
    """What stayed of the images of a pass, in reading order: bool `(N,)` each.

    stages: `(layer, masks)` of every stage; the last one's are `masks`. per_row: how many images
    each row of the batch holds.
    """

    stages: list[tuple[int, list[Tensor]]]
    per_row: list[int]

    @property
    def masks(self) -> list[Tensor]:
        return self.stages[-1][1]


class Current(threading.local):
    """What one thread is doing: its pass, and the call of `get_image_features` under way."""

    def __init__(self) -> None:
        self.pass_: Pass | None = None
        self.record: VisionRecord | None = None
        self.generating = False  # the call comes from `generate`
        self.visible: tuple[Tensor, int | None] | None = None  # see `prompt.hides_nothing`
        self.drafts = 0
        self.reached = False  # the inner model's hook ran
        self.kept: Kept | None = None
        self.image_keys: Tensor | None = None
        self.images_each: int | None = None
        self.tower_alone = False  # what is captured is not a whole prefill
