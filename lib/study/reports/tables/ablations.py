"""The captions of every method at every budget, from `scores.json`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ...stored import load_scores
from . import cost
from .format import DASH

__all__ = ["axes", "budgets", "measured", "sweep"]


def sweep(profile: str) -> pd.DataFrame:
    """The keep-rate sweep as numbers: one row a method and keep rate.

    Columns: label, keep, kept, each metric with `<metric> low` and `<metric> high`, `GFLOPs` (full
    count of vision tower, scorer and prefill) and `ms` (end to end, on the fast path where it was
    measured), missing where not measured.
    """
    try:
        costs = cost.rows(profile)
    except FileNotFoundError:
        costs = {}
    rows = []
    for slug, row in load_scores(profile)["ablations"].items():
        if "sweep" in row["groups"]:
            line = {"label": row["label"], "keep": float(row["groups"]["sweep"])}
            line |= {"kept": row["kept"]["mean"], **_scores(row), **_cost(costs.get(slug))}
            rows.append(line)
    return pd.DataFrame(rows)


def _scores(row: dict[str, Any]) -> dict[str, float]:
    cells = {}
    for name, value in row["values"].items():
        if value is not None:
            low, high = row["intervals"].get(name) or (np.nan, np.nan)
            cells |= {name: 100 * value, f"{name} low": 100 * low, f"{name} high": 100 * high}
    return cells


def _cost(row: dict[str, Any] | None) -> dict[str, float]:
    if row is None:
        return {}
    flops, time = row["flops"], row.get(cost.FAST[cost.FAST_WHOLE]) or row["end_to_end"]
    names = {"ms": "median", "ms low": "low", "ms high": "high"}
    times = {name: 1e3 * time[key] for name, key in names.items()}
    return {"GFLOPs": (flops["exact"] + flops["vision"] + flops["scorer"]) / 1e9, **times}


def budgets(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A sweep as a table: methods by keep rate, one decimal, dashes where nothing was measured."""
    table = frame.pivot_table(index="label", columns="keep", values=metric, sort=False)
    table = table[sorted(table.columns)]
    shown = table.map(lambda value: DASH if np.isnan(value) else f"{value:.1f}")
    shown.columns = [f"{100 * keep:g} %" for keep in table.columns]
    return shown.rename_axis(None)


def measured(frame: pd.DataFrame, *names: str) -> str:
    """The first of these columns that a sweep has, so that cost can stand where no score does.

    >>> measured(pd.DataFrame({"ms": [1.0]}), "CIDEr", "ms")
    'ms'
    """
    return next(name for name in names if name in frame.columns)


def axes(frame: pd.DataFrame, *, of: str = "") -> list[tuple[str, str]]:
    """What column `of` of a sweep can be drawn against: kept share, FLOPs and time if measured."""
    known = {
        "kept": "kept share of visual tokens",
        "GFLOPs": "GFLOPs to the first token",
        "ms": "ms a caption",
    }
    return [(name, label) for name, label in known.items() if name in frame.columns and name != of]
