"""What older checkpoints leave out of their processors, taken from the model's configuration."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModel

#: settings that decide how many placeholders an image gets, and what a missing one looks like
COUNTING = {
    "patch_size": None,
    "num_additional_image_tokens": 0,
    "vision_feature_select_strategy": None,
}


def complete(processor: Any, config: Any) -> None:
    """Fill in the settings that decide how many placeholders an image gets, where they are missing.

    Checkpoints saved before transformers 4.45 lack them. A processor of another kind, which does
    not have the settings, stays as it is.

    Raises `ValueError`, naming the setting, if the configuration does not say it either.
    """
    for name, missing in COUNTING.items():
        if getattr(processor, name, ...) != missing:
            continue
        value = _said(config, name)
        if value is None:
            raise ValueError(
                f"{name} is missing: neither the processor nor the model's configuration names it. "
                f"Set {name} in processor_config.json."
            )
        setattr(processor, name, value)


def _said(config: Any, name: str) -> Any:
    """What the model's configuration says of a setting; None if nothing."""
    if name == "patch_size":
        return getattr(config.vision_config, "patch_size", None)
    if name == "num_additional_image_tokens":
        return class_tokens(config.vision_config)
    return getattr(config, name, None)


def class_tokens(vision_config: Any) -> int:
    """Tokens that a vision tower puts before its patches: 1 if it has a class token, else 0."""
    with torch.device("meta"):  # the names of its weights, without the weights
        tower = AutoModel.from_config(vision_config)
    names = {name.rpartition(".")[2] for name, _ in tower.named_parameters()}
    return int(bool(names & {"class_embedding", "cls_token"}))
