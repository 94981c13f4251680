"""Curves and bars of the ablations and the cost, from the numbers of `lib.study.reports.tables`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator

from .plots import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, WIDTH
from .tables import FAST_FIRST, FAST_WHOLE

#: one colour and marker a method, the same in every figure
LOOK = {
    "Unpruned": (BLACK, "*"),
    "RandomPrune": (GREY, "o"),
    "ToMe": (GREEN, "s"),
    "FastV": (ORANGE, "^"),
    "FastV (layer 2)": (ORANGE, "^"),
    "Entropy-Prune": (BLUE, "D"),
    "Entropy-Prune at layer 2": (SKY, "P"),
    "Entropy-Prune, token level": (PINK, "X"),
    "Entropy + coverage (ours)": (RED, "v"),
}


def sweep(
    frame: pd.DataFrame, *, metric: str, against: Sequence[tuple[str, str]], title: str = ""
) -> Figure:
    """Quality against each of `against` [(column, axis label)], a line a method with its band.

    frame: as `lib.study.reports.tables.sweep` gives it; a metric without bounds has no band. The
    unpruned model
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

    frame: `lib.study.reports.tables.cost`; tokens: how many were decoded. On the fast path the
    scorer runs beside
    the vision tower, so where that was measured everything to the first token is one part.
    """
    fast = FAST_WHOLE in frame
    if fast:
        first, whole = frame[FAST_FIRST], frame[FAST_WHOLE]
        parts = {"to the first token (vision tower, scorer, prefill)": (first, BLUE)}
    else:
        first, whole = frame["prefill (ms)"], frame["end to end (ms)"]
        scorer, vision = frame["scorer (ms)"], frame["vision (ms)"]
        parts = {
            "vision tower": (vision, SKY),
            "scorer": (scorer, RED),
            "rest of the prefill": ((first - vision - scorer).clip(lower=0), BLUE),
        }
    parts[f"decoding {tokens} tokens"] = ((whole - first).clip(lower=0), GREY)
    fig, ax = plt.subplots(figsize=(WIDTH, 0.9 + 0.32 * len(frame)))
    left = np.zeros(len(frame))
    place = np.arange(len(frame))
    for name, (values, color) in parts.items():
        ax.barh(place, values, left=left, color=color, label=name, height=0.66)
        left += values.to_numpy()
    ax.set_yticks(place, frame.index)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("ms on the fast path" if fast else "ms")
    fig.legend(loc="outside lower center", ncols=4)
    if title:
        fig.suptitle(title, x=0.01, ha="left")
    return fig


def bars(
    frame: pd.DataFrame, fields: Sequence[tuple[str, str]], *, title: str = "",
    paths: Sequence[tuple[str, str]] = (("", "generate"), ("static_", "fast path")),
) -> Figure:  # fmt: skip
    """Times by method, a row of panels a field and a panel a batch size, with quartiles.

    frame: `lib.study.reports.tables.benchmark` at one keep rate, in ms. fields: [(column,
    heading)]. Each of
    `paths` [(prefix of the column, name)] is a bar, the last one in full colour with its number;
    where that was not measured stands a dash.
    """
    batches, names = frame["batch"].unique(), list(dict.fromkeys(frame["label"]))
    fig, axes = plt.subplots(
        len(fields), len(batches), figsize=(WIDTH, 0.9 + 0.36 * len(names) * len(fields)),
        sharey=True, squeeze=False,
    )  # fmt: skip
    height = 0.8 / len(paths)
    for line, (field, heading) in zip(axes, fields):
        for ax, batch in zip(line, batches):
            rows = frame[frame["batch"] == batch].set_index("label").reindex(names)
            for number, (prefix, _) in enumerate(paths):
                column, last = f"{prefix}{field}", number == len(paths) - 1
                place = np.arange(len(names)) + height * (number - (len(paths) - 1) / 2)
                ax.barh(
                    place, rows[column], height, alpha=1 if last else 0.35,
                    color=[LOOK.get(name, (PINK, ""))[0] for name in names],
                    xerr=[rows[column] - rows[f"{column} low"],
                          rows[f"{column} high"] - rows[column]],
                    error_kw={"elinewidth": 0.8, "ecolor": "#444444"},
                )  # fmt: skip
                if last:
                    said = ["–" if np.isnan(v) else f"{v:,.{int(v < 100)}f}" for v in rows[column]]
                    ends = rows[f"{column} high"].fillna(0)
                    for y, value, text in zip(place, ends, said):
                        ax.annotate(text, (value, y), (4, 0), textcoords="offset points",
                                    va="center", fontsize=6.5)  # fmt: skip
            ax.set_title(f"{heading}, batch {batch}", fontsize=8.5)
            ax.margins(x=0.2)
            ax.tick_params(axis="y", length=0)
        line[0].set_yticks(np.arange(len(names)), names)
        line[0].set_ylim(len(names) - 0.4, -0.6)
    for ax in axes[-1]:
        ax.set_xlabel("ms")
    handles = [
        Patch(color="#444444", alpha=1 if name == paths[-1][1] else 0.35, label=name)
        for _, name in paths
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(paths))
    if title:
        fig.suptitle(title, x=0.01, ha="left")
    return fig


def savings(frame: pd.DataFrame, fields: Sequence[tuple[str, str]], *, title: str = "") -> Figure:
    """Cost against the kept share of visual tokens, a panel a field, a line a method.

    frame: rows of `lib.study.reports.tables.benchmark` of one batch size. fields: [(column, axis
    label)]. The
    unpruned model is a dashed line.
    """
    fig, axes = plt.subplots(1, len(fields), figsize=(WIDTH, 3.0), squeeze=False)
    full = frame[frame["label"] == "Unpruned"]
    for ax, (column, label) in zip(axes.flat, fields):
        pruned = frame[frame["label"] != "Unpruned"].groupby("label", sort=False)
        for number, (name, rows) in enumerate(pruned):
            color, marker = LOOK.get(name, (PINK, "o"))
            rows = rows.dropna(subset=[column]).sort_values("kept")
            # smaller and smaller, so that methods at one place all show
            ax.plot(100 * rows["kept"], rows[column], color=color, marker=marker, label=name,
                    linewidth=1, markersize=max(3, 8.5 - 1.3 * number))  # fmt: skip
        for value in full[column].dropna()[:1]:
            ax.axhline(value, color=BLACK, linewidth=0.9, linestyle="--", label="Unpruned")
        ax.set(xlabel="visual tokens kept, %", xlim=(0, 100), ylim=(0, None))
        ax.set_title(label, fontsize=8.5)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=3)
    if title:
        fig.suptitle(title, x=0.01, ha="left")
    return fig


def growth(
    tokens: pd.DataFrame, batches: pd.DataFrame, *, limit: float = 5, title: str = ""
) -> Figure:
    """Time to the first token, and the scorer's share of it, as tokens and batch grow.

    tokens, batches: `lib.study.reports.tables.benchmark` of the growth, a kind of line a batch
    size, and of the
    rows, all on the fast path. limit: a line at this share in per cent.
    """
    fig, axes = plt.subplots(2, 2, figsize=(WIDTH, 5.0), sharex="col", sharey="row")
    sides = (("tokens", "visual tokens of an image", tokens), ("batch", "batch size", batches))
    dashes = dict(zip(sorted(tokens["batch"].unique()), ("-", "--", ":")))
    for column, (against, label, frame) in zip(axes.T, sides):
        split = ["label", "batch"] if against == "tokens" else ["label"]
        for (name, *batch), rows in frame.groupby(split, sort=False):
            color, marker = LOOK.get(name, (PINK, "o"))
            style = {"color": color, "marker": marker, "linewidth": 1.2,
                     "linestyle": dashes[batch[0]] if batch else "-"}  # fmt: skip
            rows = rows.sort_values(against)
            column[0].plot(rows[against], rows["static_prefill"], **style)
            if rows["scorer share"].max() > 0:
                column[1].plot(rows[against], rows["scorer share"], **style)
        column[1].axhline(limit, color=GREY, linewidth=0.9)
        column[0].set(xscale="log", yscale="log")
        column[1].set(xlabel=label, ylim=(0, None))
        column[1].set_xticks(sorted(frame[against].unique()))
        column[1].set_xticks([], minor=True)
        column[1].xaxis.set_major_formatter("{x:g}")
    axes[0, 0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0, 0].yaxis.set_major_formatter("{x:g}")
    axes[0, 0].yaxis.set_minor_formatter("")
    axes[0, 0].set_ylabel("time to the first token, ms")
    axes[1, 0].set_ylabel("scorer's share of it, %")
    names = dict.fromkeys([*tokens["label"], *batches["label"]])
    handles = [
        Line2D([], [], color=color, marker=marker, linewidth=1.2, label=name)
        for name in names
        for color, marker in [LOOK.get(name, (PINK, "o"))]
    ]
    handles += [
        Line2D([], [], color="#444444", linewidth=1.2, linestyle=style, label=f"batch {batch}")
        for batch, style in dashes.items()
    ]
    handles.append(Line2D([], [], color=GREY, linewidth=0.9, label=f"{limit:g} %"))
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    if title:
        fig.suptitle(title, x=0.01, ha="left")
    return fig
