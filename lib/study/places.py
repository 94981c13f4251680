"""The grid of places: each criterion before each language layer, at every budget."""

from __future__ import annotations

from typing import Any

from .labels import LABELS, percent
from .methods import Method, placed
from .profiles import Profile

__all__ = ["places"]


def places(profile: Profile, config: Any) -> dict[str, Method]:
    """`{slug: method}` of the profile's `places` and `budgets`, of a model with this configuration.

    Layers that the model does not have are left out, and so is a criterion where it cannot stand
    (FastV before the language model). Each is in the group "place" as "<layer>".
    """
    depth = config.get_text_config().num_hidden_layers
    found = {}
    for layer in sorted({layer for layer in profile.places if layer < depth}):
        for name, options in placed(layer).items():
            for keep in sorted(profile.budgets, reverse=True):
                slug = f"{name}-at{layer}-{percent(keep)}"
                about = {"place": str(layer), "budget": percent(keep)}
                found[slug] = Method(LABELS[name], name, {"keep": keep, **options}, about)
    return found
