"""Figure 2: clusters of patches over the image, and their sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from .images import cells, heat, outline, picture
from .style import BARS, BLUE, RED, WIDTH, subplots

__all__ = ["clusters", "similarity_order"]


def similarity_order(gram: np.ndarray) -> np.ndarray:
    """An order (M,) of clusters in which similar ones are neighbours (Fiedler vector)."""
    weight = np.clip(gram, 0, None)
    degree = np.maximum(weight.sum(1), 1e-12)
    scaled = weight / np.sqrt(degree[:, None] * degree[None, :])
    vector = np.linalg.eigh(scaled)[1][:, -2] if len(gram) > 1 else np.zeros(1)
    vector = vector * np.sign(vector[np.abs(vector).argmax()] or 1)
    return np.argsort(np.round(vector, 6), kind="stable")


def clusters(
    image: np.ndarray, labels: np.ndarray, order: np.ndarray, grid: Sequence[int]
) -> Figure:
    """The image, its clusters numbered and coloured in `order`, and bars of their sizes.

    labels: (N,), the cluster of each patch. order: (M,), see `similarity_order`.
    """
    fig, (plain, ax, sizes) = subplots(1, 3, figsize=(WIDTH, 2.95), width_ratios=(1, 1, 0.62))
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order))
    numbered = cells(rank[np.asarray(labels)], grid)
    picture(plain, image, "The image")
    heat(ax, image, numbered.ravel(), grid, alpha=0.62, vmin=0, vmax=len(order) - 1)
    outline(ax, numbered, image, color="white", linewidth=1.0)
    ax.set_title(f"{len(np.unique(labels))} clusters")
    _numbers(ax, numbered, image.shape[0] / grid[0], image.shape[1] / grid[1])
    _sizes(sizes, np.sort(np.bincount(numbered.ravel(), minlength=len(order)))[::-1])
    return fig


def _numbers(ax: Any, numbered: np.ndarray, dy: float, dx: float) -> None:
    halo = withStroke(linewidth=1.4, foreground="black")
    for cluster in np.unique(numbered):
        rows, columns = np.nonzero(numbered == cluster)
        # the member nearest the middle of all members carries the number
        middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
        ax.text(
            (columns[middle] + 0.5) * dx,
            (rows[middle] + 0.5) * dy,
            str(cluster + 1),
            ha="center",
            va="center",
            fontsize=5.5,
            color="white",
            weight="bold",
            path_effects=[halo],
        )


def _sizes(ax: Any, count: np.ndarray) -> None:
    single = count == 1
    sns.barplot(
        x=count,
        y=np.arange(len(count)),
        hue=single,
        palette={False: BLUE, True: RED},
        orient="h",
        ax=ax,
        **BARS,
    )
    ax.set(xlabel="tokens", yticks=[], ylabel="clusters, largest first")
    ax.set_title(f"{int(single.sum())} hold one token")
