"""Counts that follow from a model's configuration and a keep rate, each said once.

Nothing here needs a model: a configuration is anything with LLaVA's attributes. N is the number of
visual tokens of an image, L that of the language layers, K the layer before which tokens go.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["average_tokens", "feature_layer", "kept_count", "kept_for_average", "patches"]


def patches(config: Any) -> int:
    """Patches of one image (of one tile, where images are cut into tiles): its visual tokens.

    config: of a LLaVA-like model, with a `vision_config`.

    >>> from types import SimpleNamespace as Config
    >>> patches(Config(vision_config=Config(image_size=336, patch_size=14)))
    576
    """
    vision = config.vision_config
    return (vision.image_size // vision.patch_size) ** 2


def feature_layer(config: Any) -> int:
    """The hidden state of the vision tower that the projector reads; 0 are the embeddings.

    Of several concatenated layers it is the last one named.

    >>> from types import SimpleNamespace as Config
    >>> feature_layer(Config(vision_feature_layer=-2, vision_config=Config(num_hidden_layers=24)))
    23
    """
    named = config.vision_feature_layer
    last = named if isinstance(named, int) else named[-1]
    return last if last >= 0 else config.vision_config.num_hidden_layers + 1 + last


def kept_count(keep: float, tokens: int) -> int:
    """Tokens kept of `tokens` at a keep rate: rounded half up, at least one, at most all.

    Raises `ValueError` unless 0 < keep <= 1 and there is a token.

    >>> kept_count(0.5, 575), kept_count(0.001, 256)
    (288, 1)
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be in (0, 1], got {keep}")
    if tokens < 1:
        raise ValueError(f"tokens must be at least 1, got {tokens}")
    return max(1, min(tokens, int(keep * tokens + 0.5)))


def average_tokens(kept: float, *, tokens: float, layer: int, layers: int) -> float:
    """Visual tokens that a language layer processes, averaged over the layers.

    `kept` of `tokens` are left from layer `layer` (0: before the language model) of `layers` on:
    (K·N + (L - K)·T) / L.

    Raises `ValueError` for numbers that no model has.

    >>> average_tokens(64, tokens=256, layer=2, layers=8)
    112.0
    """
    _check(tokens, layer, layers)
    if not 0 <= kept <= tokens:
        raise ValueError(f"kept must be in 0..{tokens}, the tokens of an image, got {kept}")
    return (layer * tokens + (layers - layer) * kept) / layers


def kept_for_average(average: float, *, tokens: int, layer: int, layers: int) -> int:
    """The most tokens to keep from `layer` on whose average over the layers is within `average`.

    The inverse of `average_tokens`, T = (L·average - K·N) / (L - K), rounded down.

    Raises `ValueError` if even one token is too many, since the layers before `layer` see all of
    them, or if `average` is more than an image has.

    >>> kept_for_average(112, tokens=256, layer=2, layers=8)
    64
    """
    _check(tokens, layer, layers)
    if average > tokens:
        raise ValueError(f"average must be at most the {tokens} tokens of an image, got {average}")
    # rounding may leave a whole number just below itself
    kept = math.floor((layers * average - layer * tokens) / (layers - layer) + 1e-9)
    if kept < 1:
        least = average_tokens(1, tokens=tokens, layer=layer, layers=layers)
        raise ValueError(
            f"an average of {average:g} tokens a layer is out of reach: {layer} of {layers} layers "
            f"see all {tokens}, so that even one token kept behind them makes {least:g}. Prune at "
            "an earlier layer, or ask for more."
        )
    return kept


def _check(tokens: float, layer: int, layers: int) -> None:
    if tokens < 1:
        raise ValueError(f"tokens must be at least 1, got {tokens}")
    if not 0 <= layer < layers:
        raise ValueError(f"layer must be in 0..{layers - 1}, the language layers, got {layer}")
