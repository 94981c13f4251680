"""Figure 5: similarity of all tokens and of the kept ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from .images import matrix
from .style import WIDTH, subplots

__all__ = ["similarity_before_after"]


def similarity_before_after(
    before: np.ndarray, after: np.ndarray, notes: Sequence[str], *, sort: np.ndarray | None = None
) -> Figure:
    """Heat maps of all tokens (raster order; with `sort` also by cluster) and of the kept ones.

    `notes` is what stands under each panel.
    """
    panels = [("Before", before)]
    if sort is not None:
        panels.append(("By cluster", before[np.ix_(sort, sort)]))
    panels.append(("After", after))
    fig, axes = subplots(1, len(panels), figsize=(WIDTH, 2.9))
    low = np.floor(float(before.min()) * 10) / 10
    for ax, (name, values), note in zip(axes, panels, notes):
        drawn = matrix(ax, values, vmin=low)
        ax.set_title(f"{name}: {len(values)} × {len(values)}")
        ax.set_xlabel(note, fontsize=8)
    fig.colorbar(drawn, ax=axes, shrink=0.7, aspect=22, label="cosine similarity")
    return fig
