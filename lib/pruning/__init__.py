"""Pruning of visual tokens as context managers on an unmodified Hugging Face LLaVA.

    with FastV(keep=0.5, layer=2)(model) as pruner:
        out = model.generate(**inputs)
    pruner.kept  # indices into the visual tokens, per image

One method is one file in this folder; it registers itself under its `name`.
"""

from .base import ImageTokens, VisualPruner, available, create, discover
from .cache import PrunedCache, cache_bytes

for _ in discover():
    pass

from .entropy_prune import EntropyPrune  # noqa: E402
from .fastv import FastV  # noqa: E402
from .fixed import FixedPrune  # noqa: E402
from .random_prune import RandomPrune  # noqa: E402
from .selection_prune import SelectionPrune  # noqa: E402
from .tome import ToMe  # noqa: E402

__all__ = [
    "EntropyPrune",
    "FastV",
    "FixedPrune",
    "ImageTokens",
    "PrunedCache",
    "RandomPrune",
    "SelectionPrune",
    "ToMe",
    "VisualPruner",
    "available",
    "cache_bytes",
    "create",
]
