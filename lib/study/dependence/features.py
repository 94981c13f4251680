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
    images: Tensor, captions: Tensor, *, nulls: int = 50, halves: int = 50,
    permutations: int = 16, random_state: int = 0,
) -> Mapping[str, Any]:  # fmt: skip
    """DiME of the true pairs, with an interval, beside that of pairs shuffled at random.

    images `(n, D)`, captions `(n, E)`. `nulls` shufflings give the distribution that no dependence
    would give; `p` is the share of them at or above the true value, itself counted. `low` and
    `high` are a 95 % interval for other images of the same kind: 1.96 standard deviations of the
    value over random halves of the pairs, drawn without replacement (the delete-half jackknife; a
    bootstrap would repeat pairs, and a repeated pair is dependence).

    Raises `ValueError` if the two differ in number, or for fewer than four pairs.
    """
    if len(images) != len(captions):
        raise ValueError(f"every image needs one caption, got {len(images)} and {len(captions)}")
    if (size := len(images)) < 4:
        raise ValueError(f"a half of the pairs needs two of them at least, got {size} pairs")
    kx, ky = gaussian_gram(images), gaussian_gram(captions)
    generator = torch.Generator().manual_seed(random_state + 1)

    def value(rows: Tensor, others: Tensor) -> float:
        x, y = kx[rows][:, rows], ky[others][:, others]
        return float(dime(x, y, permutations, random_state, gram=True))

    def drawn(count: int) -> Tensor:
        return torch.randperm(size, generator=generator)[:count]

    every = torch.arange(size)
    true = value(every, every)
    shuffled = [value(every, drawn(size)) for _ in range(nulls)]
    half = torch.tensor([value(rows, rows) for rows in (drawn(size // 2) for _ in range(halves))])
    spread = 1.96 * float(half.double().std())
    return {
        "pairs": size,
        "paired": true,
        "low": true - spread,
        "high": true + spread,
        "shuffled": shuffled,
        "p": (sum(one >= true for one in shuffled) + 1) / (nulls + 1),
    }
