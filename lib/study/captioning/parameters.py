"""What determines the records, as manifests hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..records import digest
from .record import ExampleLike


def weights_digest(model: torch.nn.Module, *, samples: int = 64) -> str:
    """A fingerprint of a model's weights: SHA-256 over a fixed sample of every parameter.

    Names, shapes and up to `samples` evenly spaced values of every parameter and persistent buffer,
    the first and the last among them, enter as float32, so the fingerprint does not depend on the
    device. Cheap for models of any size, and different after any training step.
    """
    entries = []
    for name, tensor in sorted(model.state_dict().items()):
        values: list[float] | None = None
        if not tensor.is_meta and tensor.numel():
            flat = tensor.detach().reshape(-1)
            count, last = min(samples, flat.numel()), flat.numel() - 1
            # whole numbers: float32 would round the last index of 2^24 values and more past the end
            index = torch.arange(count) * last // max(count - 1, 1)
            values = flat[index.to(flat.device)].float().cpu().tolist()
        entries.append([name, list(tensor.shape), repr(values)])
    return digest(entries)


def manifest_parameters(
    model: Any,
    prompt: str,
    max_new_tokens: int,
    examples: Sequence[ExampleLike],
    extra: Mapping[str, Any] | None = None,
    *,
    kept_indices: bool = False,
    token_ids: bool = False,
    decoder: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What determines the records, but for the method.

    Batch size and device change them by rounding only and are noted with the run. extra: entries of
    the caller's own, such as the names of model and data. decoder: the options of the one used
    instead of `generate`.
    """
    fast = {} if decoder is None else {"decoder": dict(decoder)}
    names = [[example.image_id, Path(example.path).name] for example in examples]
    return {
        "prompt": prompt,
        "decoding": {"strategy": "greedy", "max_new_tokens": max_new_tokens, **fast},
        "kept_indices": kept_indices,
        "token_ids": token_ids,
        "model": {
            "class": type(model).__name__,
            "dtype": str(model.dtype).removeprefix("torch."),
            "weights": weights_digest(model),
        },
        "images": {"count": len(names), "sha256": digest(names)},
        **dict(extra or {}),
    }
