"""Figure 1: where output tokens look in each layer, and what one image token gets.

Its maps over the image are `images.token_maps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import BLUE, GREEN, GREY, ORANGE, WIDTH, subplots

__all__ = ["attention_by_layer"]

_DARK_GREY = "#6f6f6f"


def attention_by_layer(
    shares: np.ndarray, counts: Sequence[int], parts: Sequence[str], *,
    quoted: float | None = None, band: pd.DataFrame | None = None,
) -> Figure:  # fmt: skip
    """Stacked shares of attention by layer, and lines of what an average token of a part gets.

    `shares` (L, 4) sum to one in each layer; `counts` are the tokens of each part. `quoted` is a
    ratio of a system token's attention to draw for comparison. `band` has the shares of the image
    on many images: columns `mean`, `low` and `high`, a row a layer.
    """
    fig, (left, right) = subplots(1, 2, figsize=(WIDTH, 2.9), width_ratios=(1.15, 1))
    _stacked(left, shares, parts)
    per_token = pd.DataFrame(shares / np.maximum(np.asarray(counts), 1), columns=list(parts))
    _lines(right, per_token[["system", "instruction", "image"]], quoted)
    if band is not None:
        tokens = counts[list(parts).index("image")]
        right.fill_between(
            band.index, band["low"] / tokens, band["high"] / tokens, color=BLUE, alpha=0.2,
            linewidth=0,
        )  # fmt: skip
        right.plot(band.index, band["mean"] / tokens, color=BLUE, linewidth=0.8, linestyle="--")
    for ax in (left, right):
        ax.set_xlabel("language layer")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return fig


def _stacked(ax: Any, shares: np.ndarray, parts: Sequence[str]) -> None:
    bottom = np.zeros(len(shares))
    looks = zip((GREY, BLUE, ORANGE, GREEN), ("", "", "//", ".."))
    for part, column, (colour, hatch) in zip(parts, shares.T, looks):
        ax.bar(
            np.arange(len(shares)),
            column,
            bottom=bottom,
            width=0.85,
            color=colour,
            label=part,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.3,
        )
        bottom += column
    ax.set(ylabel="share of attention", ylim=(0, 1), title="Where output tokens look")
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4, columnspacing=1.2, handlelength=1.2
    )


def _lines(ax: Any, per_token: pd.DataFrame, quoted: float | None) -> None:
    colours = {"system": _DARK_GREY, "instruction": ORANGE, "image": BLUE}
    markers = {"system": "s", "instruction": "^", "image": "o"}
    sns.lineplot(
        per_token, ax=ax, palette=colours, markers=markers, dashes=False, markeredgecolor="none"
    )
    if quoted is not None:
        ax.plot(
            per_token.index,
            quoted * per_token["system"],
            color=_DARK_GREY,
            linestyle=":",
            linewidth=1.2,
            label=f"{quoted:.2%} of system",
        )
    ax.set(ylabel="attention per token", yscale="log", title="What an average token gets")
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.45, -0.2), ncols=4, columnspacing=1, handlelength=1.4
    )
