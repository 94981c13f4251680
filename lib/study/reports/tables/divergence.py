"""The divergence of every method from the unpruned model, from `divergence.json`, in nats a token.

Where nothing was measured the frames are empty, and `about` says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ... import paths
from ...labels import DIVERGENCE, LOSS
from ...stages.readings import readings
from ...stored import load_divergence, mark
from .format import DASH, nats, p_values

__all__ = [
    "ablation",
    "about",
    "averages",
    "budgets",
    "choices",
    "part",
    "places",
    "sweep",
    "table",
]

_BOUNDS = ("value", "low", "high")


def part(profile: str, name: str) -> Mapping[str, Any]:
    """One part of `divergence.json`: "table", "ablations" or "places"; empty if not measured."""
    try:
        return load_divergence(profile).get(name, {})
    except FileNotFoundError:
        return {}


def about(profile: str, name: str = "table") -> str:
    """What a part was measured on, or why there is nothing, in one sentence."""
    found = part(profile, name)
    if found:
        references = load_divergence(profile)["references"]
        return (
            f"Divergence from the unpruned model along {references} captions of each of "
            f"{found['images']} images, in nats a token; 95 % bootstrap intervals."
        )
    if said := mark(profile):
        return f"No divergence is measured ({said}): predictions of random weights mean nothing."
    return f"No divergence is stored; 'make reproduce PROFILE={profile}' measures it."


def table(profile: str) -> pd.DataFrame:
    """Table 1 by divergence: what each row keeps and where, both measures with intervals."""
    rows = {}
    for row in part(profile, "table").get("methods", {}).values():
        loss, base = row["values"][LOSS], _unpruned(profile)
        rows[row["label"]] = {
            **_budget(row),
            "divergence": nats(row["values"][DIVERGENCE], row["intervals"][DIVERGENCE]),
            "loss of the references": f"{loss:.3f}",
            "minus unpruned": DASH if base is None else f"{loss - base:+.3f}",
        }
    name = f"Method, {part(profile, 'table').get('images', 0)} images"
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(name)


def each(profile: str, label: str) -> np.ndarray:
    """(images,) divergences of a method of Table 1, by its label; a single NaN if not measured."""
    slugs = {row["label"]: slug for slug, row in part(profile, "table").get("methods", {}).items()}
    folder = paths.results_dir(profile) / "divergence" / "table"
    if not slugs or not folder.is_dir():
        return np.array([np.nan])
    return readings(folder)[0][slugs[label]].per_image[DIVERGENCE]


def _unpruned(profile: str) -> float | None:
    row = part(profile, "table").get("methods", {}).get("unpruned")
    return None if row is None else row["values"][LOSS]


def _budget(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "layer": f"{row['layer']}",
        "kept (%)": f"{100 * row['kept'] / row['of']:.1f}",
        "average (%)": f"{100 * row['average'] / row['of']:.1f}",
    }


def ablation(profile: str, group: str) -> pd.DataFrame:
    """One ablation: a row a setting, with its divergence and the difference from the default.

    Both p-values of the difference are plain, and corrected for all ablations (Holm).
    """
    found = part(profile, "ablations")
    against = _by_first(found)
    rows = {}
    for slug, row in found.get("methods", {}).items():
        if group in row["groups"]:
            cells = _budget(row)
            cells["divergence"] = nats(row["values"][DIVERGENCE], row["intervals"][DIVERGENCE])
            gap = against.get(slug)
            cells["minus the default"] = (
                nats(gap["value"], _interval(gap), sign=True) if gap else DASH
            )
            cells["p, Holm"] = p_values(gap) if gap else DASH
            rows[row["groups"][group]] = cells
    name = f"{group}, {found.get('images', 0)} images"
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(name)


def _by_first(found: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {one["a"]: one for rows in found.get("comparisons", {}).values() for one in rows}


def _interval(gap: Mapping[str, Any]) -> tuple[float, float]:
    return gap["low"], gap["high"]


def choices(profile: str) -> dict[str, pd.DataFrame]:
    """{ablation: frame with value, low, high}: each setting minus its default, paired, in nats."""
    found = part(profile, "ablations")
    against = _by_first(found)
    groups: dict[str, dict[str, list[float]]] = {}
    for slug, row in found.get("methods", {}).items():
        for group, setting in row["groups"].items():
            if group != "sweep" and slug in against:
                values = [against[slug][name] for name in _BOUNDS]
                groups.setdefault(group, {})[setting] = values
    return {
        name: pd.DataFrame.from_dict(rows, orient="index", columns=list(_BOUNDS))
        for name, rows in groups.items()
    }


def sweep(profile: str) -> pd.DataFrame:
    """Every keep rate of every method: label, layer, shares kept, divergence with bounds."""
    return pd.DataFrame(
        [
            {"keep": float(row["groups"]["sweep"]), **_numbers(row)}
            for row in part(profile, "ablations").get("methods", {}).values()
            if "sweep" in row["groups"] and row["method"] != "unpruned"
        ]
    )


def places(profile: str) -> pd.DataFrame:
    """The grid of places: layer, budget in per cent, and the numbers of `sweep`."""
    return pd.DataFrame(
        [
            {"budget": float(row["groups"]["budget"]), **_numbers(row)}
            for row in part(profile, "places").get("methods", {}).values()
            if "place" in row["groups"]
        ]
    )


def averages(profile: str) -> pd.DataFrame:
    """FastV's layer against none before it, at equal average tokens: divergences and difference."""
    found = part(profile, "places")
    rows = {}
    for one in found.get("comparisons", {}).get("even", ()):
        deep, before = (found["methods"][one[side]] for side in "ab")
        name = f"{deep['label']}, {100 * deep['average'] / deep['of']:.1f} % on average"
        rows[name] = {
            f"before layer {deep['layer']}": nats(deep["values"][DIVERGENCE]),
            "before the language model": nats(before["values"][DIVERGENCE]),
            "difference": nats(one["value"], _interval(one), sign=True),
            "p, Holm": p_values(one),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    low, high = row["intervals"][DIVERGENCE] or (float("nan"),) * 2
    return {
        "label": row["label"],
        "layer": row["layer"],
        "kept": row["kept"] / row["of"],
        "average": row["average"] / row["of"],
        DIVERGENCE: row["values"][DIVERGENCE],
        f"{DIVERGENCE} low": low,
        f"{DIVERGENCE} high": high,
    }


def budgets(frame: pd.DataFrame, columns: str) -> pd.DataFrame:
    """A frame of `sweep` or `places` as a table: methods by "keep", or by "layer" at one budget."""
    if frame.empty:
        return frame
    table = frame.pivot_table(index="label", columns=columns, values=DIVERGENCE, sort=False)
    table = table[sorted(table.columns)]
    shown = table.map(lambda value: DASH if pd.isna(value) else nats(value))
    name = "{:.4g} %" if columns == "keep" else "layer {}"
    scale = 100 if columns == "keep" else 1
    shown.columns = [name.format(scale * value) for value in table.columns]
    return shown.rename_axis(None)
