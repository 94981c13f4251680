"""Which methods run on a profile's model, and whether it can be used at all."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoModelForImageTextToText

from .. import pruning
from ..pruning.families import supported
from ..pruning.support import refusal
from .hub import is_hub_name
from .models import read_config
from .models.names import ships
from .profiles import Profile

__all__ = ["check", "fits", "fitted"]


def fits(profile: Profile, name: str, **options: Any) -> bool:
    """Whether a method is registered, and runs on the profile's model with these options.

    Models that ship with the repository are LLaVAs, which no method refuses. While a model of the
    hub is not on this machine, nothing is refused either: this looks at no network.
    """
    if name not in pruning.available():
        return False
    if ships(profile.model) or (model := _on_this_machine(profile)) is None:
        return True
    return _refusal(model, name, json.dumps(options, sort_keys=True)) is None


def fitted(profile: Profile, name: str, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """The options with which a method runs on the profile's model; None if it does not.

    Methods that close positions up keep the original ones where those have several rows (Qwen).
    """
    for more in ({}, {"positions": "original"}):
        if fits(profile, name, **(changed := {**options, **more})):
            return changed
    return None


def check(profile: Profile) -> None:
    """See whether a profile's model can be used; of a model of the hub its configuration is got.

    Raises
    ------
    ValueError : its model type has no adapter, or is unknown to transformers.
    OSError : the hub does not have it or cannot be reached, or a folder lacks a file.
    """
    if ships(profile.model) or profile.model.startswith("shape:"):
        return
    try:
        kind = read_config(profile.model, revision=profile.revision).model_type
    except (OSError, ValueError) as error:
        said = str(error).strip().split("\n")[0]
        raise type(error)(f"model {profile.model!r} cannot be used: {said}") from error
    if kind not in supported():
        raise ValueError(
            f"model {profile.model!r} cannot be used: nothing here prunes models of type {kind!r}; "
            f"choose one of {', '.join(supported())}"
        )


def _on_this_machine(profile: Profile) -> str | None:
    """What `read_config` reads without the network; None if there is nothing."""
    if not is_hub_name(profile.model):
        return profile.model
    found = try_to_load_from_cache(profile.model, "config.json", revision=profile.revision)
    return str(Path(found).parent) if isinstance(found, str) else None


@functools.cache
def _refusal(model: str, name: str, options: str) -> str | None:
    """Why a method does not run on a model, None if it does; nothing is computed with it."""
    return refusal(name, _without_weights(model), **json.loads(options))


@functools.lru_cache(1)
def _without_weights(model: str) -> Any:
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(read_config(model))
