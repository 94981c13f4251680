"""Estimators of dependence where the answer is known, and true pairs beside shuffled ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from .style import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, WIDTH, subplots

__all__ = ["known", "pairing"]

_LOOK = {
    "binning": (ORANGE, "^"),
    "MINE": (PINK, "X"),
    "matrix MI": (GREEN, "s"),
    "DiME": (BLUE, "o"),
}


def known(by_samples: pd.DataFrame, by_strength: pd.DataFrame) -> Figure:
    """Every estimate beside the truth: against the samples, a panel a dimension, and against it.

    Both frames: columns `samples`, `dimensions`, `truth`, `estimator`, `value`, a row a seed.
    Lines are means over seeds, bars their range.
    """
    dimensions = sorted(by_samples["dimensions"].unique())
    fig, axes = subplots(1, len(dimensions) + 1, figsize=(WIDTH, 2.9))
    for ax, count in zip(axes, dimensions):
        frame = by_samples[by_samples["dimensions"] == count]
        _lines(ax, frame, "samples")
        ax.axhline(frame["truth"].iloc[0], color=BLACK, linewidth=1, linestyle="--")
        ax.set(xscale="log", title=f"{count} dimension{'s' if count > 1 else ''}")
        ax.set_xticks(sorted(frame["samples"].unique()), minor=False)
        ax.minorticks_off()
        ax.xaxis.set_major_formatter("{x:g}")
    last = axes[-1]
    _lines(last, by_strength, "truth")
    ends = [by_strength["truth"].min(), by_strength["truth"].max()]
    last.plot(ends, ends, color=BLACK, linewidth=1, linestyle="--", label="truth")
    size, width = by_strength[["samples", "dimensions"]].iloc[0]
    last.set(xlabel="truth, nats", title=f"{width} dimensions,\n{size} samples")
    # few samples take a bound far below zero: logarithmic beyond 1
    span = by_samples["value"].min() - 1, by_samples["value"].max() + 1
    for ax in axes[:-1]:
        ax.set_yscale("symlog", linthresh=1)
        ax.set(ylim=span, yticks=(-5, -1, 0, 1, 5), yticklabels=("−5", "−1", "0", "1", "5"))
        ax.axhline(0, color=GREY, linewidth=0.6)
    for ax in axes:
        ax.set_ylabel("estimate, nats" if ax is axes[0] else "")
    handles, labels = last.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return fig


def _lines(ax: Any, frame: pd.DataFrame, x: str) -> None:
    sns.lineplot(
        frame,
        x=x,
        y="value",
        hue="estimator",
        style="estimator",
        hue_order=list(_LOOK),
        style_order=list(_LOOK),
        palette={name: look[0] for name, look in _LOOK.items()},
        markers={name: look[1] for name, look in _LOOK.items()},
        dashes=False,
        markeredgecolor="none",
        errorbar=("pi", 100),
        err_style="bars",
        ax=ax,
    )
    ax.get_legend().remove()


def pairing(found: Mapping[str, Mapping[str, Any]], *, order: Sequence[str] = ()) -> Figure:
    """DiME of true pairs with its interval, over that of shuffled ones; a panel an entry.

    found: `{title: lib.study.dependence.pairing(...)}`.
    """
    names = list(order) or list(found)
    fig, axes = subplots(1, len(names), figsize=(WIDTH, 2.4), sharex=True, squeeze=False)
    for ax, name in zip(axes.flat, names):
        one = found[name]
        sns.histplot(
            x=one["shuffled"], bins=12, ax=ax, color=GREY, edgecolor="white", label="shuffled"
        )
        ax.axvspan(one["low"], one["high"], color=BLUE, alpha=0.15, linewidth=0)
        ax.axvline(one["paired"], color=BLUE, label="true pairs")
        ax.set(xlabel="DiME, nats", title=name, ylabel="shufflings" if ax is axes.flat[0] else "")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=2)
    return fig
