"""Figure 3: the layers' entropy operators, their rollout, and whether it still ranks as they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from matplotlib.ticker import MaxNLocator

from .images import heat, picture
from .style import BLUE, GREEN, RED, WIDTH, subplots

__all__ = ["agreement", "rank_agreement", "rollout_flow"]


def rollout_flow(
    operators: np.ndarray,
    merged: np.ndarray,
    names: Sequence[str],
    image: np.ndarray,
    importance: np.ndarray,
    grid: Sequence[int],
    *,
    scale: str = "/L",
) -> Figure:
    """Operators (L, M, M), what has been merged after each layer, and the result on the image.

    `importance` (N,) is each token's cluster score. Clusters are ordered by the last merged
    diagonal, most important first.
    """
    depth = len(operators)
    order = np.argsort(-np.diagonal(merged[-1]), kind="stable")
    pick = np.ix_(order, order)
    fig = Figure(figsize=(WIDTH, 1.5 + 9.6 / (depth + 1)))
    fig.get_layout_engine().set(hspace=0.09)
    axes = fig.subplots(2, depth + 1, width_ratios=[1] * depth + [1.15])
    layers = [name.split()[-1] for name in names]
    above = [f"$H^{{{layer}}}$  {name}" for layer, name in zip(layers, names)]
    below = [rf"$\tilde{{H}}^{{{layer}}}$" for layer in layers]
    _operators(fig, axes[0, :depth], [o[pick] for o in operators], above)
    _operators(fig, axes[1, :depth], [m[pick] for m in merged], below)
    _arrows(fig, axes[:, :depth], scale)
    picture(axes[0, depth], image, "The image")
    heat(axes[1, depth], image, importance, grid)
    axes[1, depth].set_title(f"diagonal of {below[-1]}")
    axes[1, depth].set_xlabel("cluster importance", fontsize=7, labelpad=2)
    return fig


def _operators(fig: Figure, axes: Any, panels: Sequence[np.ndarray], heads: Sequence[str]) -> None:
    """A row of matrices on one scale, which the largest off-diagonal value ends."""
    spread = max(float(np.abs(p - np.diag(np.diagonal(p))).max()) for p in panels)
    for ax, panel, head in zip(axes, panels, heads):
        sns.heatmap(
            panel,
            ax=ax,
            cmap="PuOr_r",
            vmin=-spread,
            vmax=spread,
            square=True,
            cbar=False,
            xticklabels=False,
            yticklabels=False,
        )
        for spine in ax.spines.values():
            spine.set(visible=True, linewidth=0.5)
        ax.set_xlabel(f"trace {np.trace(panel):.2f}", fontsize=7, labelpad=2)
        ax.set_title(head, fontsize=9)
    bar = fig.colorbar(axes[-1].collections[0], ax=axes, shrink=0.75, aspect=14, pad=0.01)
    bar.ax.tick_params(labelsize=6.5)


def _arrows(fig: Figure, axes: np.ndarray, scale: str) -> None:
    """From each operator down to what it merges into, and along the merged ones."""
    style = {"arrowstyle": "-|>", "color": BLUE, "mutation_scale": 9, "linewidth": 1.2}
    for column, (above, below) in enumerate(axes.T):
        ends = ((0.5, -0.16), (0.5, 1.22), "axes fraction", "axes fraction")
        fig.add_artist(ConnectionPatch(*ends, axesA=above, axesB=below, **style))
        words = "=" if column == 0 else f"× (I+H{scale})"
        below.annotate(
            words,
            (0.56, 1.32),
            xycoords="axes fraction",
            fontsize=7.5,
            color=BLUE,
            va="center",
            annotation_clip=False,
        )
        if column:
            ends = ((1.02, 0.5), (-0.02, 0.5), "axes fraction", "axes fraction")
            before = axes[1, column - 1]
            fig.add_artist(ConnectionPatch(*ends, axesA=before, axesB=below, **style))


def rank_agreement(
    panels: Mapping[str, Mapping[str, Sequence[float]]], *, depths: Sequence[Sequence[int]],
    bands: Mapping[str, Mapping[str, pd.DataFrame]] | None = None,
) -> Figure:  # fmt: skip
    """Spearman correlation of each rollout variant with the layers' own scores, against depth.

    `panels` maps a panel's title to {variant: correlations}; `depths` gives each panel's x values.
    `bands` may have, for some panels and variants, `low` and `high` of many images.
    """
    fig, axes = subplots(1, len(panels), figsize=(WIDTH, 2.7), sharey=True, squeeze=False)
    colours = {"scores": GREEN, "scaled": BLUE, "literal": RED}
    markers = {"scores": "^", "scaled": "o", "literal": "s"}
    dashes = {"scores": "", "scaled": "", "literal": (4, 2)}
    for ax, (name, lines), depth in zip(axes.flat, panels.items(), depths):
        ax.axhspan(-1.08, 0, color="#f3e9e2", zorder=0)
        ax.axhline(0, color="black", linewidth=0.6)
        for variant, band in ((bands or {}).get(name) or {}).items():
            ax.fill_between(
                list(depth), band["low"], band["high"], color=colours[variant], alpha=0.15,
                linewidth=0,
            )  # fmt: skip
        frame = pd.DataFrame({k: np.asarray(v) for k, v in lines.items()}, index=list(depth))
        sns.lineplot(
            frame,
            ax=ax,
            palette={k: colours[k] for k in lines},
            markers=markers,
            dashes=dashes,
            markeredgecolor="none",
            legend=False,
        )
        for line, variant in zip(ax.lines[1:], lines):
            line.set_label(variant)
        ax.set(xlabel="layers merged", title=name, ylim=(-1.08, 1.08))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].set_ylabel("rank correlation with\nthe layers' scores")
    axes[0, 0].text(
        0.02,
        0.04,
        "inverted ranking",
        transform=axes[0, 0].transAxes,
        fontsize=7.5,
        color="#8a4b20",
    )
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=max(1, len(labels)))
    return fig


def agreement(values: Mapping[str, Sequence[float]], here: Mapping[str, float]) -> Figure:
    """Rank correlations of pairs of scores on many images, and this image's as diamonds.

    values: `{pair: a correlation an image}`, drawn as the median, half (thick) and 95 % (thin) of
    the images; here: `{pair: that of the image that is shown}`.
    """
    fig, ax = subplots(figsize=(WIDTH, 0.8 + 0.27 * len(values)))
    long = pd.DataFrame(
        [(pair, value) for pair, found in values.items() for value in found],
        columns=["pair", "correlation"],
    )
    for share, width in ((95, 1.2), (50, 4)):
        sns.pointplot(
            long,
            x="correlation",
            y="pair",
            estimator="median",
            errorbar=("pi", share),
            err_kws={"linewidth": width},
            color=BLUE,
            linestyle="none",
            ax=ax,
        )
    rows = [list(values).index(pair) for pair in here]
    ax.plot(list(here.values()), rows, "D", color=RED, label="this image", zorder=5)
    ax.axvline(0, color="black", linewidth=0.6)
    ax.set(xlabel="Spearman correlation over the tokens of an image", ylabel="", xlim=(-1, 1))
    ax.legend(loc="lower left")
    return fig
