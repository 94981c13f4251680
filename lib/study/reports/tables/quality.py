"""Table 1's scores and the differences between its methods, from `scores.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ...labels import BEFORE, DEEP, DIVERGENCE, OBJECT_F1, TABLE_1, percent
from ...methods import FASTV_LAYER, placed
from ...stored import load_scores
from . import divergence
from .format import DASH, interval, nats

__all__ = ["QUALITY", "losses", "methods", "parts", "table"]

QUALITY = ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "SPICE", OBJECT_F1)


def methods(profile: str, *, extra: bool = True) -> dict[str, Mapping[str, Any]]:
    """`{slug: row}` of `scores.json` in the order of Table 1; extra: with what the paper has not.

    Without, the paper's five methods, each as it was published to prune.
    """
    found = load_scores(profile)["methods"]
    if extra:
        return dict(found)
    tail = percent(load_scores(profile)["keep"])
    slugs = [name if name == "unpruned" else f"{name}-{tail}" for name in TABLE_1]
    return {slug: found[slug] for slug in slugs if slug in found}


def table(profile: str, *, extra: bool = True) -> pd.DataFrame:
    """Place, kept shares and every score with its 95 % interval, one row a method.

    "Kept" is the share left at the end, "Average" that over the language layers, as measured; the
    divergence, in nats a token, may rest on fewer images. `attrs["notes"]` says why columns show
    dashes. extra: with what the paper's table has not.
    """
    rows, reasons = {}, {}
    moved = divergence.part(profile, "table").get("methods", {})
    for slug, row in methods(profile, extra=extra).items():
        cells = _place(row)
        for name in QUALITY:
            if name in row["values"]:
                cells[name] = interval(row["values"][name], row["intervals"].get(name))
        if slug in moved:
            found = (moved[slug][key][DIVERGENCE] for key in ("values", "intervals"))
            cells["Divergence"] = nats(*found)
        rows[row["label"]] = cells
        reasons |= row["reasons"]
    frame = pd.DataFrame.from_dict(rows, orient="index").fillna(DASH)
    frame = frame.rename_axis(f"Method, {load_scores(profile)['images']} images")
    frame.attrs["notes"] = {
        ", ".join(name for name, why in reasons.items() if why == reason): reason
        for reason in dict.fromkeys(reasons.values())
    }
    return frame


def _place(row: Mapping[str, Any]) -> dict[str, str]:
    kept = row["kept"]
    cells = {"Layer": f"{row['layer']}"} if "layer" in row else {}
    cells["Kept (%)"] = f"{100 * kept['mean']:.1f}"
    if "average" in kept:
        cells["Average (%)"] = f"{100 * kept['average'] / kept['of']:.1f}"
    return cells


def parts(profile: str) -> list[tuple[str, list[str]]]:
    """The parts of Table 1 with the labels of their rows: the paper's, and one place each.

    A row of the paper's that stands at a place is shown there again, beside its rivals.
    """
    found: dict[str, list[str]] = {}
    rows, keep = methods(profile), load_scores(profile)["keep"]
    for row in rows.values():
        found.setdefault(row["groups"].get("table", ""), []).append(row["label"])
    for name in found.keys() & {BEFORE, DEEP}:
        layer = FASTV_LAYER if name == DEEP else 0
        found[name] = [
            row["label"]
            for row in rows.values()
            if row["method"] in placed(layer)
            and row["layer"] == layer
            and row["options"].get("keep") == keep
            and row["options"].get("mode") != "mask"
        ]
    return [(name, labels) for name, labels in found.items() if name]


def losses(profile: str, *, metric: str = "CIDEr") -> pd.DataFrame:
    """Each method minus the unpruned model, in points: value, low, high; empty if not scored."""
    scores = load_scores(profile)
    rows = {
        scores["methods"][one["a"]]["label"]: [one[name] for name in ("value", "low", "high")]
        for one in scores.get("comparisons", {}).get("pruning", ())
        if one["metric"] == metric
    }
    return 100 * pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"])
