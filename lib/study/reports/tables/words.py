"""Figures as text, for those who do not see them."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ...labels import DIVERGENCE
from .cost import FAST_FIRST, FAST_WHOLE
from .format import nats

__all__ = [
    "of_groups",
    "of_growth",
    "of_lines",
    "of_places",
    "of_points",
    "of_rates",
    "of_split",
    "of_sweep",
]


def of_points(frame: pd.DataFrame, *, digits: int = 1) -> str:
    """Points with their intervals: `value`, `low`, `high` of each row."""
    return "; ".join(
        f"{name} {row['value']:.{digits}f} ({row['low']:.{digits}f} to {row['high']:.{digits}f})"
        for name, row in frame.iterrows()
    )


def of_groups(groups: Mapping[str, pd.DataFrame], *, digits: int = 1) -> str:
    """Several groups of points, each by its name."""
    return ". ".join(f"{name}: {of_points(frame, digits=digits)}" for name, frame in groups.items())


def of_places(frame: pd.DataFrame) -> str:
    """The divergence of each criterion, layer by layer, at each budget."""
    parts = []
    for budget, rows in frame.groupby("budget", sort=False) if len(frame) else ():
        for name, line in rows.groupby("label", sort=False):
            points = ", ".join(
                f"{nats(value)} before layer {layer}"
                for layer, value in zip(line["layer"], line[DIVERGENCE])
            )
            parts.append(f"{budget:g} % kept, {name}: {points}")
    return "; ".join(parts) or "not measured"


def of_rates(frame: pd.DataFrame) -> str:
    """The divergence of each method by its kept share."""
    parts = []
    for name, rows in frame.groupby("label", sort=False) if len(frame) else ():
        points = ", ".join(
            f"{nats(value)} at {100 * kept:.0f} %"
            for kept, value in zip(rows["kept"], rows[DIVERGENCE])
        )
        parts.append(f"{name}: {points}")
    return "; ".join(parts) or "not measured"


def of_sweep(frame: pd.DataFrame, metric: str) -> str:
    """The keep-rate curves: each method's values and where they stand."""
    parts = []
    for name, rows in frame.groupby("label", sort=False):
        points = ", ".join(
            f"{value:.1f} at {100 * kept:.0f} %" for kept, value in zip(rows["kept"], rows[metric])
        )
        parts.append(f"{name}: {points}")
    return "; ".join(parts)


def of_split(frame: pd.DataFrame) -> str:
    """The stacked bars of `tables.cost.table`."""
    return "; ".join(
        f"{name} {row[FAST_WHOLE]:.0f} ms, to the first token {row[FAST_FIRST]:.1f}"
        if FAST_WHOLE in row
        else f"{name} {row['end to end (ms)']:.0f} ms, of which the scorer {row['scorer (ms)']:.1f}"
        for name, row in frame.iterrows()
    )


def of_lines(frame: pd.DataFrame, name: str, *, by: str = "batch") -> str:
    """A column of `tables.benchmark.rows`, the values of `by` in order for each method."""
    parts = []
    for label, rows in frame.dropna(subset=[name]).groupby("label", sort=False):
        values = ", ".join(
            f"{y:.3g} at {x:g}" for x, y in rows.sort_values(by)[[by, name]].itertuples(index=False)
        )
        parts.append(f"{label} {values}")
    return "; ".join(parts) or "not measured"


def of_growth(frame: pd.DataFrame) -> str:
    """Times and the scorer's share by visual tokens, for each batch size."""
    scored = frame[frame["label"] != "Unpruned"]
    parts = {"static_prefill": "ms", "scorer share": "scorer's share in %"}
    return ". ".join(
        f"Lines, {what} by visual tokens, batch {batch}: {of_lines(rows, name, by='tokens')}"
        for name, what in parts.items()
        for batch, rows in scored.groupby("batch")
    )
