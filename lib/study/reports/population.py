"""The population's values beside those of the one image that a figure shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ..stored import load_population

__all__ = ["band", "beside", "by_layer", "numbers", "summaries"]

_COLUMNS = {"mean": "mean", "sd": "sd", "low": "2.5 %", "high": "97.5 %", "n": "images"}


def summaries(profile: str, group: str, names: Sequence[str] = ()) -> pd.DataFrame:
    """Mean, standard deviation, range of 95 % and number of images of plain measures, a row each.

    names: all plain measures of the group by default. Measures that the profile does not have, such
    as those that need to know what was drawn, are left out.
    """
    measures = load_population(profile)["measures"].get(group, {})
    wanted = names or [name for name, one in measures.items() if "values" in one]
    rows = {
        name: {column: measures[name].get(key) for key, column in _COLUMNS.items()}
        for name in wanted
        if name in measures
    }
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=list(_COLUMNS.values()))
    return frame.astype({"images": int})


def beside(profile: str, group: str, shown: Mapping[str, float]) -> pd.DataFrame:
    """Values of the image that is shown, by measure, before the `summaries` of all images."""
    frame = summaries(profile, group, list(shown))
    frame.insert(0, "this image", [shown[name] for name in frame.index])
    return frame


def by_layer(
    profile: str, group: str, names: Sequence[str], *, value: str = "mean"
) -> pd.DataFrame:
    """Means, or "low" and "high", of measures that have one value a layer; a row a layer."""
    measures = load_population(profile)["measures"][group]
    return pd.DataFrame({name: measures[name][value] for name in names}).rename_axis("layer")


def numbers(profile: str, group: str, name: str) -> dict[str, float]:
    """Mean, sd and n of a plain measure, as the words of a figure take them."""
    one = load_population(profile)["measures"][group][name]
    return {key: one[key] for key in ("n", "mean", "sd")}


def band(profile: str, group: str, name: str) -> pd.DataFrame:
    """The "mean", "low" and "high" (95 % of the images) of a measure that has one value a layer."""
    one = load_population(profile)["measures"][group][name]
    return pd.DataFrame({key: one[key] for key in ("mean", "low", "high")}).rename_axis("layer")
