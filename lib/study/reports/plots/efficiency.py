"""Where time, FLOPs and memory go, from the numbers of `tables.cost` and `tables.benchmark`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator

from ..tables.cost import FAST_FIRST, FAST_WHOLE
from .style import BLACK, BLUE, DARK, GREY, RED, SKY, WIDTH, line_style, look, subplots

__all__ = ["bars", "growth", "savings", "split"]


def split(frame: pd.DataFrame, *, tokens: int) -> Figure:
    """Where the time of one caption goes: a stacked bar a method, in ms.

    frame: `tables.cost.table`; tokens: how many were decoded. On the fast path the scorer runs
    beside the vision tower, so where that was measured everything to the first token is one part.
    """
    fast = FAST_WHOLE in frame
    first, whole = (FAST_FIRST, FAST_WHOLE) if fast else ("prefill (ms)", "end to end (ms)")
    parts = pd.DataFrame(index=frame.index)
    if fast:
        parts["to the first token (vision tower, scorer, prefill)"] = frame[first]
    else:
        parts["vision tower"], parts["scorer"] = frame["vision (ms)"], frame["scorer (ms)"]
        parts["rest of the prefill"] = (frame[first] - parts.sum(axis=1)).clip(lower=0)
    parts[f"decoding {tokens} tokens"] = (frame[whole] - frame[first]).clip(lower=0)
    fig, ax = subplots(figsize=(WIDTH, 0.9 + 0.32 * len(frame)))
    colours = [BLUE, GREY] if fast else [SKY, RED, BLUE, GREY]
    parts.plot.barh(stacked=True, color=colours, width=0.66, ax=ax, legend=False)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="ms on the fast path" if fast else "ms", ylabel="")
    fig.legend(loc="outside lower center", ncols=4)
    return fig


def bars(
    frame: pd.DataFrame,
    fields: Sequence[tuple[str, str]],
    *,
    paths: Sequence[tuple[str, str]] = (("", "generate"), ("static_", "fast path")),
) -> Figure | None:
    """Times by method, a row of panels a field and a panel a batch size, with quartiles.

    frame: `tables.benchmark.rows` at one keep rate, in ms. fields: [(column, heading)]. Each of
    `paths` [(prefix of the column, name)] is a bar, the last one in full colour with its number;
    where that was not measured stands a dash. None for an empty frame.
    """
    if frame.empty:
        return None
    batches, names = frame["batch"].unique(), list(dict.fromkeys(frame["label"]))
    size = WIDTH, 0.9 + 0.36 * len(names) * len(fields)
    fig, axes = subplots(len(fields), len(batches), figsize=size, sharey=True, squeeze=False)
    for line, (field, heading) in zip(axes, fields):
        for ax, batch in zip(line, batches):
            rows = frame[frame["batch"] == batch].set_index("label").reindex(names)
            _pairs(ax, rows, [f"{prefix}{field}" for prefix, _ in paths])
            ax.set_title(f"{heading}, batch {batch}", fontsize=8.5)
            ax.margins(x=0.2)
            ax.tick_params(axis="y", length=0)
        line[0].set_yticks(np.arange(len(names)), names)
        line[0].set_ylim(len(names) - 0.4, -0.6)
    for ax in axes[-1]:
        ax.set_xlabel("ms")
    strength = dict.fromkeys([name for _, name in paths], 0.35) | {paths[-1][1]: 1}
    handles = [Patch(color=DARK, alpha=alpha, label=name) for name, alpha in strength.items()]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(paths))
    return fig


def _pairs(ax: Any, rows: pd.DataFrame, columns: Sequence[str]) -> None:
    """A bar a column for each row, the last one in full colour with its number."""
    height, colours = 0.8 / len(columns), [look(name)[0] for name in rows.index]
    for number, column in enumerate(columns):
        place = np.arange(len(rows)) + height * (number - (len(columns) - 1) / 2)
        low, high = rows[f"{column} low"], rows[f"{column} high"]
        last = column == columns[-1]
        ax.barh(
            place,
            rows[column],
            height,
            alpha=1 if last else 0.35,
            color=colours,
            xerr=[rows[column] - low, high - rows[column]],
            error_kw={"elinewidth": 0.8, "ecolor": DARK},
        )
        for y, value, end in zip(place, rows[column], high.fillna(0)) if last else ():
            text = "–" if np.isnan(value) else f"{value:,.{int(value < 100)}f}"
            ax.annotate(
                text, (end, y), (4, 0), textcoords="offset points", va="center", fontsize=6.5
            )


def savings(frame: pd.DataFrame, fields: Sequence[tuple[str, str]]) -> Figure | None:
    """Cost against the kept share of visual tokens, a panel a field, a line a method.

    frame: rows of `tables.benchmark.rows` of one batch size. fields: [(column, axis label)]. The
    unpruned model is a dashed line. None for an empty frame.
    """
    if frame.empty:
        return None
    fig, axes = subplots(1, len(fields), figsize=(WIDTH, 3.0), squeeze=False)
    full = frame[frame["label"] == "Unpruned"]
    for ax, (column, label) in zip(axes.flat, fields):
        pruned = frame[frame["label"] != "Unpruned"].groupby("label", sort=False)
        for number, (name, rows) in enumerate(pruned):
            color, marker = look(name)
            rows = rows.dropna(subset=[column]).sort_values("kept")
            # smaller and smaller, so that methods at one place all show
            ax.plot(
                100 * rows["kept"],
                rows[column],
                color=color,
                marker=marker,
                label=name,
                linewidth=1,
                markersize=max(3, 8.5 - 1.3 * number),
            )
        for value in full[column].dropna()[:1]:
            ax.axhline(value, color=BLACK, linewidth=0.9, linestyle="--", label="Unpruned")
        ax.set(xlabel="visual tokens kept, %", xlim=(0, 100), ylim=(0, None))
        ax.set_title(label, fontsize=8.5)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=3)
    return fig


def growth(tokens: pd.DataFrame, batches: pd.DataFrame, *, limit: float = 5) -> Figure | None:
    """Time to the first token, and the scorer's share of it, as tokens and batch grow.

    tokens, batches: `tables.benchmark.rows` of the growth, a kind of line a batch size, and of the
    rows, all on the fast path. limit: a line at this share in per cent. None if `tokens` is empty.
    """
    if tokens.empty:
        return None
    fig, axes = subplots(2, 2, figsize=(WIDTH, 5.3), sharex="col", sharey="row")
    dashes = dict(zip(sorted(tokens["batch"].unique()), ((), (4, 2), (1, 1))))
    _growing(axes[:, 0], tokens, "tokens", "visual tokens of an image", dashes)
    _growing(
        axes[:, 1], batches.assign(batch_size=batches["batch"]), "batch_size", "batch size", {}
    )
    for ax in axes[1]:
        ax.axhline(limit, color=GREY, linewidth=0.9)
        ax.set_ylim(0, None)
    axes[0, 0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0, 0].yaxis.set_major_formatter("{x:g}")
    axes[0, 0].yaxis.set_minor_formatter("")
    axes[0, 0].set_ylabel("time to the first token, ms")
    axes[1, 0].set_ylabel("scorer's share of it, %")
    handles = [
        Line2D([], [], color=look(name)[0], marker=look(name)[1], linewidth=1.2, label=name)
        for name in dict.fromkeys([*tokens["label"], *batches["label"]])
    ]
    handles += [
        Line2D([], [], color=DARK, linewidth=1.2, dashes=style or (1, 0), label=f"batch {batch}")
        for batch, style in dashes.items()
    ]
    handles.append(Line2D([], [], color=GREY, linewidth=0.9, label=f"{limit:g} %"))
    fig.legend(handles=handles, loc="outside lower center", ncols=4)
    return fig


def _growing(
    axes: Any, frame: pd.DataFrame, against: str, label: str, dashes: dict[int, tuple]
) -> None:
    """Both panels of a column: times above, the scorer's share below where there is a scorer."""
    shares = frame[frame.groupby("label")["scorer share"].transform("max") > 0]
    for ax, rows, column in zip(axes, (frame, shares), ("static_prefill", "scorer share")):
        for batch, part in rows.groupby("batch") if dashes else [(None, rows)]:
            if part.empty:
                continue
            style = line_style(part["label"])
            sns.lineplot(part, x=against, y=column, ax=ax, legend=False, linewidth=1.2, **style)
            for line in ax.lines[-part["label"].nunique() :]:
                line.set_dashes(dashes.get(batch) or (None, None))
    axes[0].set(xscale="log", yscale="log")
    axes[1].set_xlabel(label)
    axes[1].set_xticks(sorted(frame[against].unique()))
    axes[1].set_xticks([], minor=True)
    axes[1].xaxis.set_major_formatter("{x:g}")
