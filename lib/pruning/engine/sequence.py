"""Surgery on a batch of sequences: which positions stay, in which order, at which places.

Pure functions of tensors, apart from the bookkeeping of `Pass` and `Stage`. B is the batch, L the
length of the sequence as it enters a stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .cache import Segment
from .images import ImageTokens
from .passes import Pass, Stage


class Chosen(NamedTuple):
    """What a method keeps of n images, where a plain mask does not say it all.

    index: `(n, k)` int64 without repeats, the kept tokens in the order they enter the language
        model. A merged token stands in the place of one of the tokens it was made of.
    states: `(n, k, D)` that replace their hidden states; None: they stay as they are.
    counts: `(n,)`, how many of each row stay, the first ones; None: all k.
    """

    index: Tensor
    states: Tensor | None = None
    counts: Tensor | None = None

    @property
    def real(self) -> Tensor | None:
        """Bool `(n, k)`, False for what fills a row up; None: nothing does."""
        if self.counts is None:
            return None
        place = torch.arange(self.index.shape[1], device=self.index.device)
        return place < self.counts[:, None]


def take(states: Tensor, index: Tensor) -> Tensor:
    """`(B, L, D)` at `index` `(B, kept)`."""
    return states.gather(1, index.to(states.device)[..., None].expand(-1, -1, states.shape[-1]))


def take_rotary(table: Tensor, index: Tensor) -> Tensor:
    """A rotary table `(..., B or 1, L, width)` at `index` `(B, kept)`."""
    index = index.to(table.device)
    batch, kept = index.shape
    lead, width = table.shape[:-3], table.shape[-1]
    table = table.expand(*lead, batch, -1, -1)
    return table.gather(-2, index[..., None].expand(*lead, batch, kept, width))


def take_positions(ids: Tensor, index: Tensor) -> Tensor:
    """Position ids `(..., B or 1, L)` at `index` `(B, kept)`."""
    index = index.to(ids.device)
    ids = ids.expand(*ids.shape[:-2], index.shape[0], -1)
    return ids.gather(-1, index.expand(*ids.shape[:-2], *index.shape))


def as_mask(choice: Tensor | Chosen, images: ImageTokens) -> Tensor:
    """The kept tokens as bool `(n, N)`."""
    if isinstance(choice, Tensor):
        return choice
    mask = torch.zeros(images.columns.shape, dtype=torch.bool, device=choice.index.device)
    real = choice.real
    return mask.scatter_(1, choice.index, True if real is None else real)


def _apply(place: Tensor, images: ImageTokens, values: Tensor) -> None:
    """Write `values` (n, N) to the images' positions of `place` (B, L)."""
    rows, columns = images.rows.to(place.device), images.columns.to(place.device)
    place[rows[:, None], columns] = values.to(place.device)


def staying(
    groups: Sequence[ImageTokens], choices: Sequence[Tensor | Chosen], batch: int, length: int,
    device: torch.device,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Which positions stay, bool `(B, L)`, and keys that order them (None: raster order does)."""
    stay = torch.ones(batch, length, dtype=torch.bool, device=device)
    for images, choice in zip(groups, choices):
        _apply(stay, images, as_mask(choice, images))
    if all(isinstance(choice, Tensor) for choice in choices):
        return stay, None
    keys = torch.arange(length, device=device).repeat(batch, 1)
    for images, choice in zip(groups, choices):
        if isinstance(choice, Chosen):
            index, columns, real = choice.index.to(device), images.columns.to(device), choice.real
            places = index if real is None else torch.where(real.to(device), index, images.tokens)
            places = places.sort(dim=1).values.clamp(max=images.tokens - 1)
            slots = columns.gather(1, places)  # the places, in raster order
            keys[images.rows.to(device)[:, None], columns.gather(1, index)] = slots
    return stay, keys


def shortened(stay: Tensor, keys: Tensor | None, longest: int) -> Tensor:
    """The positions that stay, `(B, longest)`; shorter rows are filled on the left.

    A stable sort moves what is dropped to the front, so that rows stay aligned at their end.
    """
    ranked = stay.view(torch.uint8) if keys is None else torch.where(stay, keys, -1)
    return torch.sort(ranked, dim=1, stable=True).indices[:, stay.shape[1] - longest :]


def inverse(index: Tensor, length: int) -> Tensor:
    """Where each of `length` positions went, `(B, length)`; dropped ones point to 0."""
    place = torch.arange(index.shape[1], device=index.device).expand_as(index)
    return torch.zeros(len(index), length, dtype=torch.int64, device=index.device).scatter_(
        1, index, place
    )


def merges(choices: Sequence[Tensor | Chosen]) -> bool:
    """True if some tokens get other states."""
    return any(isinstance(choice, Chosen) and choice.states is not None for choice in choices)


def replace_states(
    hidden: Tensor,
    groups: Sequence[ImageTokens],
    choices: Sequence[Tensor | Chosen],
    where: Tensor | None,
) -> Tensor:
    """The sequence with merged tokens in the places of the kept ones.

    where: the new position of each old one (None: positions did not move).
    """
    if not merges(choices):
        return hidden
    length = hidden.shape[1]
    filled = any(isinstance(one, Chosen) and one.counts is not None for one in choices)
    # with fillings, one place more to put them
    hidden = nn.functional.pad(hidden, (0, 0, 0, 1)) if filled else hidden.clone()
    for images, choice in zip(groups, choices):
        if isinstance(choice, Chosen) and choice.states is not None:
            rows = images.rows.to(hidden.device)[:, None]
            columns = images.columns.to(hidden.device).gather(1, choice.index.to(hidden.device))
            if where is not None:
                columns = where.to(hidden.device)[rows, columns]
            if (real := choice.real) is not None:
                columns = torch.where(real.to(columns.device), columns, length)
            hidden[rows, columns] = choice.states.to(hidden.device, hidden.dtype)
    return hidden[:, :length].contiguous()


def left_over(
    groups: Sequence[ImageTokens],
    choices: Sequence[Tensor | Chosen],
    counts: Sequence[Sequence[int]],
    where: Tensor | None,
) -> list[ImageTokens]:
    """The images as they enter the next stage, in groups of equal length.

    counts: tokens kept of each image of each group.
    """
    members: dict[tuple[int, int], list[tuple[int, Tensor, Tensor, Tensor]]] = {}
    for images, choice, kept in zip(groups, choices, counts):
        device = images.columns.device
        for i, count in enumerate(kept):
            if isinstance(choice, Chosen):
                index = choice.index[i, :count].to(device)
            else:  # the kept ones first, without asking the device how many there are
                index = choice[i].to(device, torch.uint8).sort(descending=True, stable=True)
                index = index.indices[:count]
            columns = images.columns[i].gather(0, index)
            if where is not None:
                row = where.to(device).index_select(0, images.rows[i : i + 1]).squeeze(0)
                columns = row.gather(0, columns)
            origin = index if images.origin is None else images.origin[i].gather(0, index)
            one = images.ordinals[i], images.rows[i], columns, origin
            members.setdefault((count, images.total), []).append(one)
    result = []
    for (_, total), found in sorted(members.items(), key=lambda item: item[0]):
        ordinals, rows, columns, origins = zip(*found)
        result.append(
            ImageTokens(
                torch.stack(rows), torch.stack(columns), list(ordinals), groups[0].prefill,
                torch.stack(origins), total,
            )
        )  # fmt: skip
    return result


def renumbered(ids: Tensor, visible: Tensor | None) -> tuple[Tensor, Tensor]:
    """Position ids `(B, L)` closed up over what was dropped, and how far the rest moves `(B, 1)`.

    visible: bool `(B, L)`, False for filling, padding and hidden tokens; None: all are visible.
    """
    if visible is None:
        visible = torch.ones_like(ids, dtype=torch.bool)
    visible = visible.to(ids.device)
    place = torch.arange(ids.shape[1], device=ids.device)
    first = torch.where(visible, place, ids.shape[1] - 1).amin(1, keepdim=True)
    last = torch.where(visible, place, 0).amax(1, keepdim=True)
    rank = visible.long().cumsum(1) - 1
    new = ids.gather(1, first) + rank.clamp(min=0)
    return new, ids.gather(1, last) - new.gather(1, last)


def segment_after(
    pass_: Pass, stage: Stage, before: Segment | None, device: torch.device
) -> Segment:
    """What the layers of a stage hold when a pass with images is over.

    before: their segment of earlier passes.
    """
    length = pass_.length if stage.columns is None else stage.columns.shape[1]
    new = stage.columns
    if new is not None and pass_.past:
        new = torch.where(new >= 0, new + pass_.past, -1)
    columns = hidden = None
    if new is not None or (before is not None and before.columns is not None):
        new = _in_order(pass_, pass_.past, length, device) if new is None else new
        columns = new
        if stage.held:
            columns = torch.cat([_old_columns(pass_, before, stage.held, device), new], 1)
    if stage.hidden is not None or (before is not None and before.hidden is not None):
        new = _shown(pass_, length, device) if stage.hidden is None else stage.hidden
        hidden = new
        if stage.held:
            hidden = torch.cat([_old_hidden(pass_, before, stage.held, device), new], 1)
    filled = stage.filled or (before is not None and before.filled)
    seen = pass_.past + pass_.length
    return Segment(stage.layer, seen, columns, filled, hidden, stage.shift)


def _in_order(pass_: Pass, first: int, count: int, device: torch.device) -> Tensor:
    return torch.arange(first, first + count, device=device).expand(pass_.batch, -1)


def _shown(pass_: Pass, count: int, device: torch.device) -> Tensor:
    return torch.zeros(pass_.batch, count, dtype=torch.bool, device=device)


def _old_columns(pass_: Pass, before: Segment | None, held: int, device: torch.device) -> Tensor:
    """Places of the keys that the layers held before the pass."""
    if before is None or before.columns is None:
        return _in_order(pass_, 0, held, device)
    later = _in_order(pass_, before.seen, held - before.held, device)
    return torch.cat([before.columns.to(device), later], 1)


def _old_hidden(pass_: Pass, before: Segment | None, held: int, device: torch.device) -> Tensor:
    """Which of those keys mask mode hides."""
    if before is None or before.hidden is None:
        return _shown(pass_, held, device)
    later = _shown(pass_, held - before.held, device)
    return torch.cat([before.hidden.to(device), later], 1)
