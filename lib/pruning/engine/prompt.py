"""What the host has to know of a prompt: which tokens are visible, and which stand for images.

It is read back once, as the pass begins: there the device has little to do, while behind the vision
tower the host would wait for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .passes import Current, Pass


def read_masks(pass_: Pass, mask: Any, current: Current) -> None:
    """Which tokens of a pass are visible by the caller's attention mask, and its placeholders.

    Raises `ValueError` unless the mask is 2D and covers the tokens of the pass.
    """
    if mask is not None:
        pass_.whole = _checked(mask, pass_).bool()
    # one decoding step appends one token a row: nothing to read back from the device
    shown = pass_.whole if pass_.length > 1 else None
    asked = [*pass_.marks.values(), *([] if shown is None else [shown])]
    if not asked or captured(asked[0], current):
        pass_.valid = None if shown is None else shown[:, pass_.past :]
        return
    seen = _read_back(asked)
    pass_.marks = dict(zip(pass_.marks, seen))
    if shown is not None and bool(seen[-1].all()):
        pass_.whole = None
    elif shown is not None and not bool(seen[-1][:, pass_.past :].all()):
        pass_.valid = shown[:, pass_.past :]


def note_visible(current: Current, mask: Any) -> None:
    """Remember a mask that hides nothing; None: forget what was remembered."""
    current.visible = None if mask is None else (mask, _version(mask))


def hides_nothing(current: Current, mask: Any) -> bool:
    """True for the very tensor that was remembered, not written to since."""
    known = current.visible
    return known is not None and known[0] is mask and known[1] == _version(mask)


def appending(current: Current, update: Callable) -> Callable:
    """transformers' `_update_model_kwargs_for_generation`, which appends a one to every row of the
    mask: of one that hides nothing the next hides nothing either."""

    @functools.wraps(update)
    def updating(outputs: Any, model_kwargs: dict, *args: Any, **kwargs: Any) -> dict:
        visible = hides_nothing(current, model_kwargs.get("attention_mask"))
        after = update(outputs, model_kwargs, *args, **kwargs)
        if visible:
            note_visible(current, after.get("attention_mask"))
        return after

    return updating


def _version(mask: Tensor) -> int | None:
    return None if mask.is_inference() else mask._version


def captured(tensor: Tensor, current: Current) -> bool:
    """True while a graph is captured, and the host may not wait for the tensor's device."""
    return current.images_each is not None and tensor.device.type != "cpu"


def _checked(mask: Any, pass_: Pass) -> Tensor:
    """The caller's attention mask. Raises `ValueError` unless it covers the tokens of a pass."""
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        kind = f"{mask.ndim} dimensions" if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"pruning needs a 2D attention mask or none, got {kind} (static caches and "
            "prepared 4D masks are not supported)"
        )
    if mask.shape[1] != pass_.past + pass_.length:
        raise ValueError(
            f"the attention mask covers {mask.shape[1]} positions, but {pass_.past} are cached "
            f"and {pass_.length} are new: pass one for all {pass_.past + pass_.length}"
        )
    return mask


def _read_back(masks: Sequence[Tensor]) -> list[Tensor]:
    """Bool tensors as the host has them, in one transfer."""
    device = masks[0].device
    if all(mask.device.type == "cpu" for mask in masks):
        return [*masks]
    flat = torch.cat([mask.flatten().to(device) for mask in masks]).cpu()
    parts = flat.split([mask.numel() for mask in masks])
    return [part.view(mask.shape) for part, mask in zip(parts, masks)]


def placeholders(current: Current, ask: Callable) -> Callable:
    """transformers' `get_placeholder_mask`, which waits for the tower to compare two counts.

    For a family without videos, whose placeholders are all of images: the host has read them back.
    Where the counts differ transformers says so.
    """

    @functools.wraps(ask)
    def found(input_ids: Any, inputs_embeds: Tensor, image_features: Tensor) -> Tensor:
        pass_ = current.pass_
        seen = None if pass_ is None else pass_.marks.get("image")
        known = seen is not None and seen.device.type == "cpu"
        if known and int(seen.sum()) * inputs_embeds.shape[-1] == image_features.numel():
            return pass_.image_mask.unsqueeze(-1).to(inputs_embeds.device)
        return ask(input_ids, inputs_embeds=inputs_embeds, image_features=image_features)

    return found
