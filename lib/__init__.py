"""Matrix-entropy pruning of visual tokens in large vision-language models.

    from lib import EntropyPrune  # installed from a wheel: from entropy_prune import EntropyPrune

    with EntropyPrune(keep=0.5)(model) as pruner:
        out = model.generate(**inputs)
    pruner.kept  # indices into the visual tokens, per image

The first level is the library: entropy, clustering, rollout, selection, merging, kernels, pruning,
decoding. `study` is what runs the study; the library never imports it.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

#: each public name and where it is from; loaded when first asked for, since torch takes seconds
_FROM = {
    "clustering": ("centroid_gram", "kmeans"),
    "decoding": ("StaticDecoder",),
    "entropy": (
        "dime", "effective_rank", "entropy_operator", "gram", "joint_entropy", "leave_one_out",
        "matrix_entropy", "mutual_information",
    ),
    "geometry": ("average_tokens", "kept_count", "kept_for_average"),
    "pruning": (
        "Chosen", "EntropyPrune", "FastV", "FixedPrune", "ImageTokens", "PrunedCache",
        "RandomPrune", "SelectionPrune", "ToMe", "VisualPruner", "available", "create",
    ),
    "rollout": ("rolled_importance",),
    "selection": (
        "STRATEGIES", "coverage", "dpp", "greedy", "hierarchical", "proportions", "token_level",
        "top_k",
    ),
}  # fmt: skip
_HOME = {name: module for module, names in _FROM.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
