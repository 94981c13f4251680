"""Figure 4: scores of the clusters before pruning, and of the core clusters among themselves."""

from __future__ import annotations

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import BARS, BLUE, DARK, WIDTH, subplots

__all__ = ["cluster_scores"]

_DROPPED = "#c9c9c9"


def cluster_scores(
    before: np.ndarray, after: np.ndarray, counts: np.ndarray, core: np.ndarray
) -> Figure:
    """Scores (M,) of all clusters, and of the core clusters when only they are left.

    Clusters keep their place: both panels are in the order of `before`. `after` is NaN where a
    cluster was dropped. The numbers above the bars are the clusters' tokens.
    """
    order = np.argsort(-before, kind="stable")
    fig, axes = subplots(2, 1, figsize=(WIDTH, 3.9), sharex=True, sharey=True)
    left = int(core.sum())
    texts = (
        f"Before: {len(order)} clusters, the {left} best are kept",
        f"After: the same scores among the {left} kept clusters alone",
    )
    for ax, scores, text in zip(axes, (before, after), texts):
        _bars(ax, scores[order], core[order])
        ax.set(title=text, ylabel="$S$ (nats)")
    _sizes(axes[0], before[order], counts[order])
    axes[1].set(xlabel="clusters, by score before pruning", xticks=[])
    return fig


def _bars(ax: Axes, scores: np.ndarray, core: np.ndarray) -> None:
    """A bar a cluster, blue where it is kept; none where there is no score."""
    sns.barplot(
        x=np.arange(len(scores)),
        y=np.nan_to_num(scores),
        hue=core,
        ax=ax,
        palette={True: BLUE, False: _DROPPED},
        **BARS,
    )
    ax.axhline(0, color="black", linewidth=0.6)


def _sizes(ax: Axes, scores: np.ndarray, counts: np.ndarray) -> None:
    """Above each bar its cluster's tokens, and what these numbers are."""
    for x, (score, count) in enumerate(zip(scores, counts)):
        ax.annotate(
            str(count), (x, max(score, 0)), xytext=(0, 1.5), textcoords="offset points",
            ha="center", fontsize=6.5, color=DARK,
        )  # fmt: skip
    ax.text(
        0.995, 0.93, "numbers: tokens in the cluster", transform=ax.transAxes,
        ha="right", va="top", fontsize=7.5, color=DARK,
    )  # fmt: skip
    ax.margins(y=0.12)
