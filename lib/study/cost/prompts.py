"""What is timed: the study's own prompt with its images, or random ones of any length."""

from __future__ import annotations

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


def random_prompts(
    model: Any, batch: int, *, text: int = 60, seed: int = 0
) -> dict[str, torch.Tensor]:
    """`batch` prompts of one smooth random image and `text` random words each, on the device."""
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(3, 80, (batch, text), generator=generator)
    words[words == config.image_token_id] = 3
    image = torch.full((batch, patches(config)), config.image_token_id)
    before = text // 2
    ids = torch.cat([words[:, :before], image, words[:, before:]], 1)
    coarse = torch.randn(batch, 3, 12, 12, generator=generator)
    side = config.vision_config.image_size
    pixels = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    pixels += 0.1 * torch.randn(pixels.shape, generator=generator)
    weight = model.get_input_embeddings().weight
    return {
        "input_ids": ids.to(weight.device),
        "attention_mask": torch.ones_like(ids).to(weight.device),
        "pixel_values": pixels.to(weight.device, weight.dtype),
    }
