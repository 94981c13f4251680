"""One image of a profile with its first caption, ready to be read by the model."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.utils import logging

from .. import models
from ..captioning.images import load_image
from ..data.coco import Example
from ..divergence import reference_ids
from ..examples import examples
from ..profiles import load_profile

__all__ = ["OneCaption", "one_caption"]


class OneCaption(NamedTuple):
    """A model, the prompt with an image as it takes them, and a caption as it would say it.

    Attributes:
        model, processor: as `lib.study.models.load` gives them, in evaluation mode.
        inputs: of the prompt and the image, batch one.
        caption: (1, T) ids of the caption's tokens, the end token last.
        example: the image on disk.
    """

    model: Any
    processor: Any
    inputs: dict[str, Tensor]
    caption: Tensor
    example: Example


def one_caption(profile: str) -> OneCaption:
    """The first image of a profile with its model. Raises what loading either raises."""
    settings = load_profile(profile)
    (example,) = examples(settings, limit=1, progress=False)
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model, processor, _ = models.load(
            settings.model,
            dtype=settings.dtype,
            revision=settings.revision,
            device_map=settings.device_map,
        )
    finally:
        if shown:
            logging.enable_progress_bar()
    prompt = models.full_prompt(processor, settings.prompt)
    inputs = processor(images=load_image(example.path), text=prompt, return_tensors="pt")
    inputs = {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }
    ids = reference_ids(model, processor, prompt, example.references[0])
    return OneCaption(model, processor, inputs, torch.tensor([ids], device=model.device), example)
