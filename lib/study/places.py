"""The grid of places: each criterion before each language layer, at every budget."""

from __future__ import annotations

from typing import Any

from .fitting import fits
from .labels import LABELS, percent
from .methods import FASTV_LAYER, Method, placed
from .profiles import Profile

__all__ = ["even_share", "places"]


def places(profile: Profile, config: Any) -> dict[str, Method]:
    """`{slug: method}` of the profile's `places` and `budgets`, of a model with this configuration.

    Layers that the model does not have are left out, and so is a criterion where it cannot stand
    (FastV before the language model) or refuses the model. Groups: "place", the layer, and
    "budget", the share kept; or "even", a budget at FastV's layer, for the criteria before the
    language model with as many tokens a layer on average as that budget leaves there.
    """
    depth = config.get_text_config().num_hidden_layers
    found = {}
    layers = sorted({layer for layer in profile.places if layer < depth})
    budgets = sorted(profile.budgets, reverse=True)
    for layer in layers:
        for name, options in _fitting(profile, layer).items():
            for keep in budgets:
                about = {"place": str(layer), "budget": percent(keep)}
                slug = f"{name}-at{layer}-{percent(keep)}"
                found[slug] = Method(LABELS[name], name, {"keep": keep, **options}, about)
    if {0, FASTV_LAYER} <= set(layers):
        for name, options in _fitting(profile, 0).items():
            for keep in budgets:
                more = {"keep": even_share(keep, FASTV_LAYER, depth), **options}
                about = {"even": percent(keep)}
                found[f"{name}-even-{percent(keep)}"] = Method(LABELS[name], name, more, about)
    return found


def _fitting(profile: Profile, layer: int) -> dict[str, dict[str, Any]]:
    found = placed(layer).items()
    return {name: options for name, options in found if fits(profile, name, **options)}


def even_share(keep: float, layer: int, depth: int) -> float:
    """The share before the language model with the average tokens a layer of `keep` at `layer`.

    >>> even_share(0.25, 2, 8)
    0.4375
    """
    return (layer + (depth - layer) * keep) / depth
