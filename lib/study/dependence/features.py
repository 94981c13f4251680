"""Image and caption features of a model, and how much their pairing matters by DiME."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...entropy import dime
from .estimators import gaussian_gram


@torch.inference_mode()
def image_features(model: Any, pixel_values: Tensor, *, batch_size: int = 16) -> Tensor:
    """The mean of each image's projected visual tokens, `(images, D)` float32."""
    found = []
    for pixels in pixel_values.split(batch_size):
        tokens = model.model.get_image_features(pixels.to(model.dtype)).pooler_output
        found.append(torch.stack([image.float().mean(0) for image in tokens]))
    return torch.cat(found)


@torch.inference_mode()
def caption_features(
    model: Any, tokenizer: Any, captions: Sequence[str], *, batch_size: int = 16
) -> Tensor:
    """The mean last hidden state of each caption, read without its image, `(captions, D)`."""
    found = []
    for start in range(0, len(captions), batch_size):
        batch = tokenizer(
            list(captions[start : start + batch_size]), return_tensors="pt", padding=True
        ).to(model.device)
        mask = batch["attention_mask"]
        states = model.model.language_model(
            input_ids=batch["input_ids"], attention_mask=mask
        ).last_hidden_state
        weight = mask.unsqueeze(-1).to(torch.float32)
        found.append((states.float() * weight).sum(1) / weight.sum(1))
    return torch.cat(found)


def pairing(
    images: Tensor, captions: Tensor, *, nulls: int = 50, permutations: int = 16,
    random_state: int = 0,
) -> Mapping[str, Any]:  # fmt: skip
    """DiME of the true pairs beside that of pairs shuffled at random.

    images `(n, D)`, captions `(n, E)`. `nulls` shufflings give the distribution that no dependence
    would give; `p` is the share of them at or above the true value, itself counted.

    Raises `ValueError` if the two differ in number.
    """
    if len(images) != len(captions):
        raise ValueError(f"every image needs one caption, got {len(images)} and {len(captions)}")
    kx, ky = gaussian_gram(images), gaussian_gram(captions)
    options = {"permutations": permutations, "random_state": random_state, "gram": True}
    true = float(dime(kx, ky, **options))
    generator = torch.Generator().manual_seed(random_state + 1)
    shuffled = []
    for _ in range(nulls):
        order = torch.randperm(len(ky), generator=generator)
        shuffled.append(float(dime(kx, ky[order][:, order], **options)))
    above = sum(value >= true for value in shuffled)
    return {
        "pairs": len(images),
        "paired": true,
        "shuffled": shuffled,
        "p": (above + 1) / (nulls + 1),
    }
