"""Curves and bars of the ablations and the cost, from the numbers of `lib.tables`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .plots import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, WIDTH

#: one colour and marker a method, the same in every figure
LOOK = {
    "Unpruned": (BLACK, "*"),
    "RandomPrune": (GREY, "o"),
    "ToMe": (GREEN, "s"),
    "FastV": (ORANGE, "^"),
    "Entropy-Prune": (BLUE, "D"),
    "Entropy + coverage (ours)": (RED, "v"),
}


def sweep(
    frame: pd.DataFrame, *, metric: str, against: Sequence[tuple[str, str]], title: str = ""
) -> Figure:
    """Quality against each of `against` [(column, axis label)], a line a method with its band.

    frame: as `lib.tables.sweep` gives it; a metric without bounds has no band. The unpruned model
        is a dashed line.
    """
    fig, axes = plt.subplots(1, len(against), figsize=(WIDTH, 3.1), sharey=True, squeeze=False)
    full = frame[frame["label"] == "Unpruned"]
    for ax, (column, label) in zip(axes.flat, against):
        for name, rows in frame[frame["label"] != "Unpruned"].groupby("label", sort=False):
            color, marker = LOOK.get(name, (PINK, "o"))
            rows = rows.dropna(subset=[column]).sort_values(column)
            if f"{metric} low" in rows:
                ax.fill_between(
                    rows[column], rows[f"{metric} low"], rows[f"{metric} high"],
                    color=color, alpha=0.12, linewidth=0,
                )  # fmt: skip
            ax.plot(rows[column], rows[metric], color=color, marker=marker, label=name)
        if len(full):
            ax.axhline(full[metric].iloc[0], color=BLACK, linewidth=0.9, linestyle="--",
                       label="Unpruned")  # fmt: skip
        ax.set_xlabel(label)
    axes.flat[0].set_ylabel(metric)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=3)
    if title:
        fig.suptitle(title, x=0.01, ha="left")
    return fig


def forest(
    groups: Mapping[str, pd.DataFrame], *, metric: str, reference: float | None = None,
    reference_label: str = "unpruned", title: str = "",
) -> Figure:  # fmt: skip
    """Ablations as points with intervals, a block a group.

    groups: {heading: frame} with columns `value`, `low`, `high`, the settings as index.
    reference: a vertical line, such as the unpruned model's score.
    """
    lines = sum(len(frame) + 1.2 for frame in groups.values())
    fig, ax = plt.subplots(figsize=(WIDTH, 0.6 + 0.19 * lines))
    y, ticks, names = 0.0, [], []
    for number, (heading, frame) in enumerate(groups.items()):
        ax.text(-0.012, y, heading, transform=ax.get_yaxis_transform(), ha="right", va="center",
                fontweight="bold", fontsize=8)  # fmt: skip
        y += 1
        color = (BLUE, ORANGE, GREEN, PINK, SKY, RED)[number % 6]
        for setting, row in frame.iterrows():
            ax.plot([row["low"], row["high"]], [y, y], color=color, linewidth=1.6)
            ax.plot(row["value"], y, "o", color=color)
            ticks.append(y)
            names.append(setting)
            y += 1
        y += 0.2
    if reference is not None:
        ax.axvline(reference, color=BLACK, linewidth=0.9, linestyle="--", label=reference_label)
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    ax.set_yticks(ticks, names)
    ax.set_ylim(y - 0.4, -0.8)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", linewidth=0.3)
    ax.set_xlabel(metric)
    if title:
        fig.suptitle(title, x=0.01, ha="left")
    return fig


def split(frame: pd.DataFrame, *, title: str = "", tokens: int) -> Figure:
    """Where the time of one caption goes: a stacked bar a method, in ms.

    frame: `lib.tables.cost`; tokens: how many were decoded.
    """
    scorer = frame["scorer (ms)"]
    vision = frame["vision (ms)"]
    parts = {
        "vision tower": (vision, SKY),
        "scorer": (scorer, RED),
        "rest of the prefill": ((frame["prefill (ms)"] - vision - scorer).clip(lower=0), BLUE),
        f"decoding {tokens} tokens": (
            (frame["end to end (ms)"] - frame["prefill (ms)"]).clip(lower=0), GREY,
        ),
    }  # fmt: skip
    fig, ax = plt.subplots(figsize=(WIDTH, 0.9 + 0.32 * len(frame)))
    left = np.zeros(len(frame))
    place = np.arange(len(frame))
    for name, (values, color) in parts.items():
        ax.barh(place, values, left=left, color=color, label=name, height=0.66)
        left += values.to_numpy()
    ax.set_yticks(place, frame.index)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("ms")
    fig.legend(loc="outside lower center", ncols=4)
    if title:
        fig.suptitle(title, x=0.01, ha="left")
    return fig


def scaling(
    rows: Sequence[Mapping[str, Any]], *, field: str, label: str, title: str = ""
) -> Figure:
    """A measured quantity against the batch size, a line a method, with quartiles.

    rows: entries of `efficiency.json` or `benchmark.json`, times in seconds.
    """
    fig, ax = plt.subplots(figsize=(WIDTH, 3.2))
    names = list(dict.fromkeys(row.get("label", row["method"]) for row in rows))
    cycle = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    for number, name in enumerate(names):
        mine = sorted(
            (r for r in rows if r.get("label", r["method"]) == name), key=lambda r: r["batch"]
        )
        color, marker = LOOK.get(name, (cycle[number % len(cycle)], "o"))
        x = [row["batch"] for row in mine]
        ax.plot(x, [1e3 * row[field]["median"] for row in mine], color=color, marker=marker,
                label=name)  # fmt: skip
        ax.fill_between(x, [1e3 * row[field].get("low", row[field]["median"]) for row in mine],
                        [1e3 * row[field].get("high", row[field]["median"]) for row in mine],
                        color=color, alpha=0.15, linewidth=0)  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(sorted({row["batch"] for row in rows}))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set(xlabel="batch size", ylabel=label)
    fig.legend(loc="outside lower center", ncols=3)
    if title:
        fig.suptitle(title, x=0.01, ha="left")
    return fig
