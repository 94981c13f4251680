"""Divergence against the place, and against the tokens that a place leaves on average."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ...labels import DIVERGENCE
from .style import WIDTH, look, subplots

__all__ = ["averages", "layers", "rates"]


def layers(frame: pd.DataFrame) -> Figure | None:
    """Divergence against the layer before which tokens go: a panel a budget, a line a criterion.

    frame: `tables.divergence.places`. Bands are 95 % intervals; the axis is logarithmic. None for
    an empty frame.
    """
    if frame.empty:
        return None
    budgets = sorted(frame["budget"].unique(), reverse=True)
    columns = min(2, len(budgets))
    rows = -(-len(budgets) // columns)
    size = (WIDTH if columns > 1 else 0.8 * WIDTH), 0.7 + 2.4 * rows
    fig, axes = subplots(rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False)
    for ax, budget in zip(axes.flat, budgets):
        _lines(ax, frame[frame["budget"] == budget], "layer")
        ax.set_title(f"{budget:g} % kept", fontsize=8.5)
        ax.set_xticks(sorted(frame["layer"].unique()))
    for ax in list(axes.flat)[len(budgets) :]:
        ax.set_visible(False)
    return _finished(fig, axes, "pruned before language layer")


def rates(frame: pd.DataFrame) -> Figure | None:
    """Divergence against the kept share, a line a method; frame: `tables.divergence.sweep`."""
    return _single(frame.assign(kept=100 * frame["kept"]) if len(frame) else frame, "kept",
                   "visual tokens kept, %")  # fmt: skip


def averages(frame: pd.DataFrame) -> Figure | None:
    """Divergence against the average tokens of a layer: a line a criterion and place.

    frame: `tables.divergence.places` with several budgets; with one there is no line to draw.
    """
    if frame.empty or frame["budget"].nunique() < 2:
        return None
    frame = frame[frame["layer"].isin([0, 2])]
    named = frame["label"] + frame["layer"].map({0: "", 2: ", layer 2"})
    return _single(
        frame.assign(average=100 * frame["average"], label=named),
        "average",
        "visual tokens of an average layer, %",
    )


def _single(frame: pd.DataFrame, column: str, label: str) -> Figure | None:
    if frame.empty:
        return None
    fig, axes = subplots(1, 1, figsize=(0.8 * WIDTH, 3.6), squeeze=False)
    _lines(axes[0, 0], frame, column)
    return _finished(fig, axes, label)


def _lines(ax: Any, frame: pd.DataFrame, column: str) -> None:
    for name, rows in frame.groupby("label", sort=False):
        rows, (color, marker) = rows.sort_values(column), look(name)
        style = "--" if "layer" in name else "-"
        ax.plot(rows[column], rows[DIVERGENCE], style, color=color, marker=marker, label=name,
                linewidth=1.2, markersize=4.5)  # fmt: skip
        bounds = rows[f"{DIVERGENCE} low"], rows[f"{DIVERGENCE} high"]
        ax.fill_between(rows[column], *bounds, color=color, alpha=0.12, linewidth=0)


def _finished(fig: Figure, axes: Any, label: str) -> Figure:
    for ax in axes.flat:
        ax.set_yscale("log")
        ax.grid(axis="y", linewidth=0.3)
    for ax in axes[-1]:
        ax.set_xlabel(label)
    for row in axes:
        row[0].set_ylabel("divergence, nats a token")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    # a criterion may be missing from the first panel
    for ax in axes.flat:
        for handle, name in zip(*ax.get_legend_handles_labels()):
            if name not in labels:
                handles, labels = [*handles, handle], [*labels, name]
    fig.legend(handles, labels, loc="outside lower center", ncols=3 if len(axes[0]) > 1 else 2)
    return fig
