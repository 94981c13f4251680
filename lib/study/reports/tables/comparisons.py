"""The comparisons a study declares, family by family, with plain and corrected p-values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ...comparisons import QUESTIONS
from ...labels import DIVERGENCE
from ...stored import load_scores
from . import divergence
from .format import DASH, nats, p_values

__all__ = ["equal", "families", "of_divergence"]


def families(profile: str) -> dict[str, pd.DataFrame]:
    """{question: frame} of Table 1's captions: a row a pair, a column a metric, in points.

    A cell holds a - b with its 95 % interval, p, and p corrected for the family after Holm. Empty
    where nothing was scored.
    """
    scores = load_scores(profile)
    return {
        _title(name, rows): _frame(rows, scores["methods"])
        for name, rows in scores.get("comparisons", {}).items()
    }


def of_divergence(profile: str, part: str = "table") -> dict[str, pd.DataFrame]:
    """The same of a part's divergences, in nats a token."""
    found = divergence.part(profile, part)
    return {
        _title(name, rows): _frame(rows, found["methods"])
        for name, rows in found.get("comparisons", {}).items()
    }


def _title(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    tests, images = rows[0]["tests"], rows[0]["images"]
    asked = QUESTIONS.get(name, name)
    return f"{asked[0].upper()}{asked[1:]} {tests} tests, {images} images"


def _frame(rows: Sequence[Mapping[str, Any]], methods: Mapping[str, Any]) -> pd.DataFrame:
    found: dict[str, dict[str, str]] = {}
    labels = [row["label"] for row in methods.values()]

    def name(slug: str) -> str:
        row = methods[slug]
        if labels.count(row["label"]) == 1:
            return row["label"]
        kept = 100 * row["kept"] / row["of"]
        return f"{row['label']}, layer {row['layer']}, {kept:.1f} %"

    for one in rows:
        pair = f"{name(one['a'])} − {name(one['b'])}"
        found.setdefault(pair, {})[one["metric"]] = _cell(one)
    frame = pd.DataFrame.from_dict(found, orient="index").fillna(DASH)
    return frame.rename_axis("Difference; p, corrected")


def _cell(one: Mapping[str, Any]) -> str:
    bounds = one["low"], one["high"]
    if one["metric"] == DIVERGENCE:
        value = nats(one["value"], bounds, sign=True)
    else:
        low, high = (100 * bound for bound in bounds)
        value = f"{100 * one['value']:+.1f} [{low:+.1f}, {high:+.1f}]"
    return f"{value}; {p_values(one)}"


def equal(profile: str) -> pd.DataFrame:
    """Equivalence by two one-sided tests: difference, 90 % interval, margin, p, and the verdict."""
    scores = load_scores(profile)
    rows = {}
    for one in scores.get("equivalence", ()):
        a, b = (scores["methods"][one[side]]["label"] for side in "ab")
        low, high = 100 * one["low"], 100 * one["high"]
        rows[f"{a} = {b}, {one['metric']}"] = {
            "difference, 90 %": f"{100 * one['value']:+.1f} [{low:+.1f}, {high:+.1f}]",
            "margin": f"±{100 * one['margin']:.1f}",
            "p": f"{one['p_value']:.4f}",
            "equal": "yes" if one["equivalent"] else "not shown",
            "images": one["images"],
        }
    return pd.DataFrame.from_dict(rows, orient="index")
