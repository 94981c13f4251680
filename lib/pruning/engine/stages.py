"""One stage of a pass: ask the method, check its answer, and cut the sequence accordingly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import beside, sequence
from .cache import Segment
from .images import ImageTokens
from .passes import Doubt, Kept, Pass, Stage
from .sequence import Chosen

if TYPE_CHECKING:
    from ..families import Family
    from .pruner import VisualPruner


def choose(pruner: VisualPruner, pass_: Pass, stage: Stage, hidden: Tensor) -> Tensor:
    """Let the method choose before a layer; returns the hidden states of what is left.

    Fills in the stage's columns, hidden keys and key mask, and the pass's images for later stages.
    """
    pass_.entering = hidden
    groups, length, index = pass_.groups, hidden.shape[1], None
    with beside.following(groups, stage.layer):
        choices = [_asked(pruner, images) for images in groups]
        counts = [_counts(pruner, pass_, images, choice) for images, choice in zip(groups, choices)]
        pass_.masks.append({})
        for images, choice in zip(groups, choices):
            _note(pass_, images, sequence.as_mask(choice, images))
        stay, keys = sequence.staying(groups, choices, pass_.batch, length, hidden.device)
        lengths = _lengths(pass_, groups, counts, length)
        if pruner.mode == "inplace":
            index = sequence.shortened(stay, keys, max(lengths))
    pass_.entering = None
    before = pass_.stage
    where, last = None, stage.layer == pruner.stages()[-1]
    if index is None:
        hidden = sequence.replace_states(hidden, groups, choices, None)
        stage.hidden = ~stay if before is None else ~stay | before.hidden
        stage.key_mask = stay if before is None else stay & before.key_mask
        if before is None and pass_.valid is not None:
            stage.key_mask = stay & pass_.valid.to(stay.device)
    else:
        if not last or sequence.merges(choices):  # somebody asks where positions went
            where = sequence.inverse(index, length)
        hidden = sequence.replace_states(sequence.take(hidden, index), groups, choices, where)
        _shorten(pass_, stage, stay, index, ragged=min(lengths) < max(lengths) or
                 _counts_are_bounds(pruner, pass_))  # fmt: skip
    if not last:
        pass_.groups = sequence.left_over(groups, choices, counts, where)
    return hidden


def _shorten(pass_: Pass, stage: Stage, stay: Tensor, index: Tensor, *, ragged: bool) -> None:
    """The columns and the key mask of what `index` leaves."""
    before = pass_.stage
    columns, visible, filled = index, pass_.valid, ragged
    if before is not None and before.columns is not None:
        columns = before.columns.gather(1, index)
        filled = filled or before.filled
        visible = before.key_mask
    visible = None if visible is None else visible.to(stay.device).gather(1, index)
    if ragged:
        real = stay.gather(1, index)
        columns = torch.where(real, columns, -1)
        visible = real if visible is None else real & visible
    stage.columns, stage.filled, stage.key_mask = columns, filled, visible


def inherit(before: Stage, stage: Stage) -> None:
    """A stage that drops nothing, behind one that did."""
    stage.columns, stage.filled = before.columns, before.filled
    stage.hidden, stage.key_mask = before.hidden, before.key_mask


def _asked(pruner: VisualPruner, images: ImageTokens) -> Tensor | Chosen:
    """The method's answer for one group of images, its form checked."""
    choice = pruner.select(images)
    shape = tuple(images.columns.shape)
    who = f"{type(pruner).__name__}.select"
    if isinstance(choice, Chosen):
        index = choice.index
        if index.ndim != 2 or index.shape[0] != shape[0] or index.dtype != torch.int64:
            raise ValueError(
                f"{who} must return int64 indices ({shape[0]}, k), got {index.dtype} "
                f"{tuple(index.shape)}"
            )
        if choice.states is not None and choice.states.shape[:2] != index.shape:
            raise ValueError(
                f"{who} must return states {tuple(index.shape)} + (D,), got "
                f"{tuple(choice.states.shape)}"
            )
        return choice
    if not isinstance(choice, Tensor) or choice.shape != shape or choice.dtype != torch.bool:
        got = f"{choice.dtype} {tuple(choice.shape)}" if isinstance(choice, Tensor) else choice
        raise ValueError(f"{who} must return bool {shape}, got {got}")
    return choice


def _counts_are_bounds(pruner: VisualPruner, pass_: Pass) -> bool:
    """True if kept counts vary and may not be read back, as while a graph is captured."""
    return not pruner.exact and pruner._current.images_each is not None


def _counts(
    pruner: VisualPruner, pass_: Pass, images: ImageTokens, choice: Tensor | Chosen
) -> list[int]:
    """Tokens kept of each image; a promised count is compared with what came."""
    who, tokens = type(pruner).__name__, images.tokens
    promised = _promised(pruner, images)
    if isinstance(choice, Chosen) and choice.counts is None:
        kept = choice.index.shape[1]
        if promised not in (None, kept):
            raise ValueError(_broken_promise(who, promised, images, kept, images.ordinals[0]))
        return [kept] * images.count
    if _counts_are_bounds(pruner, pass_):
        return [pruner.most(tokens)] * images.count
    if promised is None:
        counts = (choice.counts if isinstance(choice, Chosen) else choice.sum(1)).tolist()
        if not all(counts):
            raise ValueError(
                f"{who}.select keeps nothing of image {images.ordinals[counts.index(0)]}"
            )
        return counts
    if beside.capturing():  # a replay's counts nobody would look at
        return [promised] * images.count
    # as what `check_finite` finds, which travels with it
    found = (
        choice.counts.float() if isinstance(choice, Chosen) else choice.sum(1, dtype=torch.float)
    )

    def message(i: int) -> str:
        return _broken_promise(who, promised, images, int(found[i]), images.ordinals[i])

    _must_hold(pass_, found, lambda count: count == promised, message)
    return [promised] * images.count


def _promised(pruner: VisualPruner, images: ImageTokens) -> int | None:
    """How many tokens of each image the method said it would leave here; None: it did not."""
    if not pruner.exact:
        return None
    plan = pruner.plan(images.total)
    return plan[images.stage] if len(plan) == len(pruner.stages()) else None


def _broken_promise(who: str, promised: int, images: ImageTokens, kept: int, ordinal: int) -> str:
    return (
        f"{who} promises budget({images.total}) = {promised} tokens of each image (exact = True), "
        f"but select keeps {kept} of image {ordinal}: set exact = False in the class, or keep that "
        "many"
    )


def check_finite(pass_: Pass, images: ImageTokens, embeddings: Tensor) -> None:
    """Features with NaN have no order; the message names the image.

    embeddings: `(B, L, D)` as they enter the language model, whose layers would spread them.
    """
    # zero times anything finite is zero; torch.isfinite alone is four operations
    nothing = images.take(embeddings).flatten(1).mul(0).sum(1)

    def message(i: int) -> str:
        return (
            f"the visual tokens of image {images.ordinals[i]} hold NaN or infinite values: check "
            "the image, or the precision of the vision tower"
        )

    _must_hold(pass_, nothing, lambda value: value == 0, message)


def _must_hold(
    pass_: Pass, found: Tensor, holds: Callable[[float], bool], message: Callable[[int], str]
) -> None:
    """Look at once where it costs nothing, else when the pass is over."""
    doubt = Doubt(found, holds, message)
    if found.device.type == "cpu":
        doubt.settle(found.tolist())
    else:
        pass_.doubts.append(doubt)


def settle(pass_: Pass) -> None:
    """Read back what had to be true; raises `ValueError` for the first that was not."""
    if not pass_.doubts or torch.cuda.is_current_stream_capturing():
        return
    device = pass_.doubts[0].found.device  # layers may be spread over several
    values = torch.cat([doubt.found.to(device) for doubt in pass_.doubts]).tolist()
    for doubt in pass_.doubts:
        own, values = values[: len(doubt.found)], values[len(doubt.found) :]
        doubt.settle(own)


def _lengths(
    pass_: Pass, groups: Sequence[ImageTokens], counts: Sequence[Sequence[int]], length: int
) -> list[int]:
    """Positions left in each row."""
    lengths = [length] * pass_.batch
    for images, kept in zip(groups, counts):
        for ordinal, count in zip(images.ordinals, kept):
            lengths[pass_.row_of[ordinal]] -= images.tokens - count
    return lengths


def _note(pass_: Pass, images: ImageTokens, mask: Tensor) -> None:
    """Remember which of each image's first tokens stayed."""
    if images.origin is not None:
        first = torch.zeros(images.count, images.total, dtype=torch.bool, device=mask.device)
        mask = first.scatter_(1, images.origin.to(mask.device), mask)
    pass_.masks[-1] |= dict(zip(images.ordinals, mask))


def kept(pass_: Pass) -> Kept:
    """The kept sets of a pass, in reading order."""
    found = zip(pass_.stages, pass_.masks)
    masks = [(stage.layer, [own[i] for i in sorted(own)]) for stage, own in found]
    return Kept(masks, pass_.images_per_row)


# ---- positions -----------------------------------------------------------------------------------


def renumber(
    pruner: VisualPruner, pass_: Pass, stage: Stage, before: Segment | None, kwargs: dict
) -> None:
    """Close the position ids up over what was dropped, here and in earlier passes."""
    earlier = None if before is None else before.shift
    if pruner.positions == "original" or (earlier is None and not pass_.groups):
        return
    ids = kwargs["position_ids"]
    ids = ids.expand(pass_.batch, -1)
    if earlier is not None:
        ids = ids - earlier.to(ids.device)
    if stage.columns is not None:
        ids = ids.gather(1, stage.columns.clamp(min=0).to(ids.device))
    stage.ids, stage.shift = ids, earlier
    if pass_.image_mask is not None:
        stage.ids, moved = sequence.renumbered(ids, stage.key_mask)
        stage.shift = moved if earlier is None else moved + earlier.to(moved.device)


def positions(family: Family, stage: Stage, kwargs: dict, hidden: Tensor) -> dict[str, Any]:
    """Position ids and rotary embeddings for a layer behind the stage, on its device."""
    if stage.ids is not None:
        ids = stage.ids.to(hidden.device)
        rotary = family.rotary(hidden, ids)
        return {"position_embeddings": rotary, "position_ids": ids}
    index = (stage.columns.clamp(min=0) if stage.filled else stage.columns).to(hidden.device)
    tables = kwargs["position_embeddings"]
    ids = kwargs.get("position_ids")
    return {
        "position_embeddings": tuple(
            sequence.take_rotary(t.to(hidden.device), index) for t in tables
        ),
        "position_ids": None
        if ids is None
        else sequence.take_positions(ids.to(hidden.device), index),
    }


def joined(
    past: Tensor | None, new: Tensor | None, held: int, length: int, like: Tensor
) -> Tensor | None:
    """Key mask over cached and new positions; None when all of them are visible."""
    if past is None and new is None:
        return None
    parts = []
    for mask, size in ((past, held), (new, length)):
        if mask is None:
            mask = torch.ones(like.shape[0], size, dtype=torch.bool, device=like.device)
        parts.append(mask.to(like.device))
    return torch.cat(parts, dim=1)
