"""Pruning of visual tokens as context managers on an unmodified Hugging Face model.

    with FastV(keep=0.5, layer=2)(model) as pruner:
        out = model.generate(**inputs)
    pruner.kept  # indices into the visual tokens, per image

One method is one file in this folder; it registers itself under its `name`. `engine` is the
mechanism under all of them, `families` has an adapter for each kind of model.
"""

import sys

from .engine.cache import PrunedCache, cache_bytes
from .engine.images import ImageTokens
from .engine.pruner import VisualPruner
from .engine.sequence import Chosen
from .registry import available, create, discover
from .support import support_markdown, support_table

for _ in discover(sys.modules[__name__]):
    pass

from .entropy_prune import EntropyPrune  # noqa: E402
from .fastv import FastV  # noqa: E402
from .fixed import FixedPrune  # noqa: E402
from .random_prune import RandomPrune  # noqa: E402
from .selection_prune import SelectionPrune  # noqa: E402
from .tome import ToMe  # noqa: E402

__all__ = [
    "Chosen",
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
    "support_markdown",
    "support_table",
]
