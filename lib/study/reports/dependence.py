"""What notebook 10 shows: the estimators on known cases, and a model's features of its images.

Both take seconds and are kept as plain arrays, as what the other figures are drawn from; training a
network rounds differently on every processor, so the numbers shown are the stored ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .. import paths
from ..captioning.images import load_image
from ..dependence import Gaussians, caption_features, image_features, sweep
from ..examples import examples
from ..profiles import load_profile
from .quiet import loaded_quietly
from .store import published_weights, stored_arrays

__all__ = ["known_cases", "paired_features"]

_FORMAT = 1  # raise it when a stored array changes its meaning


def known_cases(
    profile: str, cases: Sequence[Gaussians], *, seeds: Sequence[int] = (0, 1)
) -> pd.DataFrame:
    """`lib.study.dependence.sweep` of these cases as a frame, computed once for a profile."""

    def compute() -> dict[str, Any]:
        rows = pd.DataFrame(sweep(cases, seeds=seeds))
        return {name: rows[name].to_numpy(_plain(rows[name])) for name in rows}

    asked = {
        "cases": [[case.samples, case.dimensions, case.correlation] for case in cases],
        "seeds": list(seeds),
        "format": _FORMAT,
    }
    return pd.DataFrame(stored_arrays(_folder(profile) / "dependence_known.npz", asked, compute))


def paired_features(profile: str, pairs: int) -> tuple[Tensor, Tensor]:
    """Features `(n, D)` of the profile's first images and `(n, E)` of a human caption of each.

    `n` is `pairs`, or as many images as the profile has.
    """
    settings = load_profile(profile)

    def compute() -> dict[str, Any]:
        few = examples(settings, limit=min(pairs, settings.limit or pairs), progress=False)
        loaded = loaded_quietly(
            settings.model,
            dtype=settings.dtype,
            revision=settings.revision,
            device_map=settings.device_map,
        )
        pixels = loaded.processor.image_processor(
            [load_image(one.path) for one in few], return_tensors="pt"
        )["pixel_values"]
        images = image_features(loaded.model, pixels.to(loaded.model.device))
        captions = caption_features(
            loaded.model, loaded.processor.tokenizer, [one.references[0] for one in few]
        )
        return {"images": _half(images), "captions": _half(captions)}

    asked = {
        "model": settings.model,
        "weights": published_weights(settings.model),
        "revision": settings.revision,
        "pairs": pairs,
        "data": settings.json_path,
        "split": settings.split,
        "random_state": settings.random_state,
        "format": _FORMAT,
    }
    stored = stored_arrays(_folder(profile) / "dependence_features.npz", asked, compute)
    images, captions = (torch.from_numpy(stored[name]).float() for name in ("images", "captions"))
    return images, captions


def _folder(profile: str) -> Any:
    return paths.results_dir(profile) / "figures"


def _half(features: Tensor) -> np.ndarray:
    """Scaled to the largest entry, which changes no Gram matrix of the median width."""
    return (features / features.abs().max()).cpu().half().numpy()


def _plain(column: pd.Series) -> Any:
    return np.str_ if column.dtype == object or pd.api.types.is_string_dtype(column) else None
