"""Visual tokens as the layers of both networks hold them, and the picture the model sees."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...geometry import feature_layer

__all__ = ["default_layers", "grid", "language_states", "seen", "unit_gram", "vision_states"]


def checked(config: Any) -> Any:
    """The configuration of a LLaVA whose patches are its visual tokens; else `TypeError`."""
    strategy = getattr(config, "vision_feature_select_strategy", None)
    if config.model_type != "llava" or strategy != "default":
        raise TypeError(
            "the figures need a LLaVA with vision_feature_select_strategy='default', got "
            f"{config.model_type!r} with {strategy!r}"
        )
    return config


def default_layers(config: Any) -> range:
    """The vision layers Entropy-Prune merges by default: four, up to the projector's."""
    last = feature_layer(checked(config))
    return range(max(0, last - 3), last + 1)


def grid(config: Any) -> tuple[int, int]:
    """Rows and columns of the patches of one image."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    return side, side


def seen(processor: Any, inputs: Mapping[str, Tensor]) -> np.ndarray:
    """The (H, W, 3) uint8 picture in `pixel_values`: resized and cropped as the model gets it."""
    pixels = inputs["pixel_values"][0].float().cpu()
    mean = torch.tensor(processor.image_processor.image_mean)[:, None, None]
    std = torch.tensor(processor.image_processor.image_std)[:, None, None]
    return ((pixels * std + mean) * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


@torch.inference_mode()
def vision_states(model: Any, pixels: Tensor, layers: range) -> list[Tensor]:
    """Hidden states (N, D) of the patches, class token left out."""
    states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    return [states[index][0, 1:] for index in layers]


@torch.inference_mode()
def language_states(model: Any, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Visual tokens (N, D) as they enter each language layer."""
    spots = (inputs["input_ids"][0] == model.config.image_token_id).nonzero().squeeze(1)
    found: list[Tensor] = []

    def hook(module: Any, args: tuple, kwargs: dict) -> None:
        found.append((args[0] if args else kwargs["hidden_states"])[0, spots])

    with ExitStack() as stack:
        for layer in model.model.language_model.layers:
            stack.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        model(**inputs, use_cache=False, logits_to_keep=1)
    return found


def unit_gram(gram: Tensor) -> Tensor:
    """The Gram matrix (..., M, M) of the same vectors at unit length; zero vectors stay zero."""
    length = gram.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    scale = torch.where(length > 1e-6, 1 / length.clamp_min(1e-6), 0)
    return gram * scale.unsqueeze(-1) * scale.unsqueeze(-2)
