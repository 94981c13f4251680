"""One choice at a time, and every method at every budget, from `scores.json`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ...stored import load_scores
from . import cost
from .format import DASH, interval

__all__ = ["axes", "budgets", "differences", "measured", "sweep", "table"]

_HEADINGS = {"place": "where it prunes"}


def table(profile: str, group: str) -> pd.DataFrame:
    """One ablation: a row a setting, with kept share, scores and intervals.

    Raises `ValueError` for an unknown group.
    """
    found = load_scores(profile)["ablations"]
    rows = {}
    for row in found.values():
        if group in row["groups"]:
            cells = {"kept (%)": f"{100 * row['kept']['mean']:.1f}"}
            cells |= {n: interval(v, row["intervals"].get(n)) for n, v in row["values"].items()}
            rows[row["groups"][group]] = cells
    if not rows:
        groups = sorted({name for row in found.values() for name in row["groups"]})
        raise ValueError(f"no ablation {group!r}; there are {', '.join(groups)}")
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(group)


def differences(profile: str, *, metric: str = "CIDEr") -> dict[str, pd.DataFrame]:
    """{ablation: frame with value, low, high}: each setting minus Entropy-Prune's default, paired.

    In points of the metric; the sweep is left out, and so is what was not scored.
    """
    groups: dict[str, dict[str, list[float]]] = {}
    for row in load_scores(profile)["ablations"].values():
        for group, setting in row["groups"].items():
            if group != "sweep" and row["versus"]:
                rows = groups.setdefault(_HEADINGS.get(group, group), {})
                rows[setting] = row["versus"][metric][:3]
    columns = ["value", "low", "high"]
    return {
        name: 100 * pd.DataFrame.from_dict(rows, orient="index", columns=columns)
        for name, rows in groups.items()
    }


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
