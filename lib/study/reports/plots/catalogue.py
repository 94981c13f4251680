"""The catalogue: every method's divergence at each average, and against the time it takes."""

from __future__ import annotations

import pandas as pd
import textalloc
from matplotlib.figure import Figure

from ...labels import DIVERGENCE
from .style import BLACK, BLUE, DARK, GREEN, GREY, LOOK, RED, WIDTH, look, subplots

__all__ = ["pareto", "ranking"]

#: of the averages, the largest first
COLOURS = (GREEN, BLUE, RED)


def ranking(frame: pd.DataFrame, averages: dict[str, float]) -> Figure | None:
    """A line a method with a point and a 95 % interval for each average; None for an empty frame.

    frame: `tables.catalogue.numbers`; averages: `tables.catalogue.averages`. Sorted by the middle
    average, the smallest divergence on top; what is not measured there stands below.
    """
    if frame.empty:
        return None
    table = frame.pivot_table(index="label", columns="average", values=DIVERGENCE, sort=False)
    names = list(averages)
    order = table.sort_values(names[len(names) // 2], na_position="last").index
    places = {label: place for place, label in enumerate(order)}
    fig, ax = subplots(figsize=(WIDTH, 1.0 + 0.19 * len(order)))
    for color, (name, tokens) in zip(COLOURS, averages.items()):
        rows = frame[frame["average"] == name]
        y = rows["label"].map(places)
        bounds = rows[f"{DIVERGENCE} low"], rows[f"{DIVERGENCE} high"]
        ax.hlines(y, *bounds, color=color, linewidth=1.1, alpha=0.5)
        ax.plot(rows[DIVERGENCE], y, "o", color=color, markersize=4,
                label=f"{tokens:.3g} tokens on average")  # fmt: skip
    ax.set_yticks(range(len(order)), order, fontsize=7.5)
    ax.set_ylim(len(order) - 0.4, -0.6)
    ax.set_xscale("log")
    ax.set_xlabel("divergence, nats a token")
    ax.grid(axis="y", linewidth=0.3)
    fig.legend(loc="outside lower center", ncols=3)
    return fig


def pareto(frame: pd.DataFrame, best: pd.DataFrame) -> Figure | None:
    """Divergence against the time to the first token, a line through `best`; None without times.

    frame: rows of `tables.catalogue.numbers` at one average; best: their `frontier`. Named are the
    methods on the line and those with a look of their own.
    """
    timed = frame.dropna(subset=["ms"]) if len(frame) else frame
    if timed.empty:
        return None
    fig, ax = subplots(figsize=(WIDTH, 4.6))
    ax.step(best["ms"], best[DIVERGENCE], where="post", color=GREY, linewidth=1)
    for label, ms, value in zip(timed["label"], timed["ms"], timed[DIVERGENCE]):
        color, marker = look(label)
        ax.plot(ms, value, marker, color=color, markersize=5)
    ax.set_xscale("log")
    ax.set_yscale("log")
    low, high = timed["ms"].min(), timed["ms"].max()
    ax.set_xlim(low / 1.1, high * (high / low) ** 0.25 * 1.2)  # room for names
    ax.set_xlabel("first token of one image, ms")
    ax.set_ylabel("divergence, nats a token")
    own = timed["label"].str.partition(", ")[0].isin(LOOK)
    named = timed[own | timed.index.isin(best.index)]
    textalloc.allocate(
        ax, named["ms"].tolist(), named[DIVERGENCE].tolist(), named["label"].tolist(),
        x_scatter=timed["ms"].tolist(), y_scatter=timed[DIVERGENCE].tolist(), textsize=7,
        textcolor=[BLACK if slug in best.index else DARK for slug in named.index],
        linecolor=GREY, linewidth=0.5,
    )  # fmt: skip
    return fig
