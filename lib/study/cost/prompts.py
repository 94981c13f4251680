"""What is timed: the study's own prompt with its images, or random ones of any length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

import torch

from ...geometry import patches
from ..captioning import Loader
from ..captioning.record import ExampleLike
from ..models import full_prompt


def study_prompts(
    model: Any, processor: Any, examples: Sequence[ExampleLike], question: str, batch: int
) -> dict[str, torch.Tensor]:
    """`batch` images with the question as the study asks it, on the model's device."""
    prompt = full_prompt(processor, question)
    with Loader(processor, prompt, torch.device("cpu"), workers=1) as loader:
        inputs = loader.prepare(list(islice(cycle(examples), batch)))
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }


#: visual tokens of a random image where the model takes any number: 1008 x 1008 pixels in Qwen2.5
ANY_SIZE = 1296


def has_grids(model: Any) -> bool:
    """True for towers that take images of any size, cut into patches, with their grid (Qwen)."""
    return hasattr(model.config.vision_config, "spatial_merge_size")


def square(tokens: int) -> int:
    """The side of a square of so many tokens; raises `ValueError` if there is none."""
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ValueError(f"the number of visual tokens must be a square, got {tokens}")
    return side


def random_prompts(
    model: Any, batch: int, *, text: int = 60, seed: int = 0, tokens: int | None = None
) -> dict[str, torch.Tensor]:
    """`batch` prompts of one smooth random image and `text` random words each, on the device.

    tokens: visual tokens of the image, a square, where the model takes images of any size.
    """
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(3, 80, (batch, text), generator=generator)
    words[words == config.image_token_id] = 3
    if has_grids(model):
        tokens = tokens or ANY_SIZE
        images = _patches(config.vision_config, square(tokens), batch, generator)
    else:
        tokens = patches(config)
        images = {"pixel_values": _smooth(batch, 3, config.vision_config.image_size, generator)}
    image = torch.full((batch, tokens), config.image_token_id)
    before = text // 2
    ids = torch.cat([words[:, :before], image, words[:, before:]], 1)
    if has_grids(model):
        images["mm_token_type_ids"] = (ids == config.image_token_id).int()
    weight = model.get_input_embeddings().weight
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **images}
    return {
        name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }


def _smooth(batch: int, channels: int, side: int, generator: torch.Generator) -> torch.Tensor:
    """Square random images whose neighbouring pixels are alike."""
    coarse = torch.randn(batch, channels, 12, 12, generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    return pixels + 0.1 * torch.randn(pixels.shape, generator=generator)


def _patches(
    vision: Any, side: int, batch: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Square images of side² tokens as the patches of Qwen's processors, with their grids."""
    merge, patch = vision.spatial_merge_size, vision.patch_size
    channels = vision.in_channels * vision.temporal_patch_size
    pixels = _smooth(batch, channels, side * merge * patch, generator)
    cut = pixels.view(batch, channels, side, merge, patch, side, merge, patch)
    cut = cut.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(batch * (side * merge) ** 2, -1)
    grid = torch.tensor([[1, side * merge, side * merge]] * batch)
    return {"pixel_values": cut, "image_grid_thw": grid}
