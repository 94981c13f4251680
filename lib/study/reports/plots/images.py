"""Values, borders and kept sets over the patches of an image; what several figures draw alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.collections import LineCollection
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import BLUE, WIDTH, subplots

__all__ = ["kept_patches", "matrices", "matrix", "patches", "token_maps"]


def cells(values: Any, grid: Sequence[int]) -> np.ndarray:
    """Values (N,) by row and column of their patch."""
    values = np.asarray(values)
    if values.shape != (grid[0] * grid[1],):
        raise ValueError(f"expected {grid[0] * grid[1]} values for grid {grid}, got {values.shape}")
    return values.reshape(grid)


def picture(ax: Any, image: np.ndarray, title: str = "") -> None:
    """The image (H, W, 3) without axes."""
    height, width = image.shape[:2]
    ax.imshow(image, extent=(0, width, height, 0), interpolation="antialiased")
    ax.set(xticks=[], yticks=[], title=title)
    for spine in ax.spines.values():
        spine.set_visible(False)


def heat(ax: Any, image: np.ndarray, values: Any, grid: Sequence[int], **style: Any) -> Any:
    """Values (N,) per patch over a grey version of the image."""
    height, width = image.shape[:2]
    grey = image.mean(-1).astype(np.uint8)
    picture(ax, np.repeat(grey[..., None], 3, -1))
    style = {"cmap": "viridis", "alpha": 0.72} | style
    return ax.imshow(cells(values, grid), extent=(0, width, height, 0), **style)


def outline(ax: Any, labels: np.ndarray, image: np.ndarray, **style: Any) -> None:
    """Lines between neighbouring cells of different label."""
    height, width = image.shape[:2]
    rows, columns = labels.shape
    dy, dx = height / rows, width / columns
    lines = []
    for r, c in zip(*np.nonzero(labels[:, 1:] != labels[:, :-1])):
        lines.append([((c + 1) * dx, r * dy), ((c + 1) * dx, (r + 1) * dy)])
    for r, c in zip(*np.nonzero(labels[1:] != labels[:-1])):
        lines.append([(c * dx, (r + 1) * dy), ((c + 1) * dx, (r + 1) * dy)])
    ax.add_collection(LineCollection(lines, **style))


def matrix(ax: Any, values: np.ndarray, **style: Any) -> Any:
    """A square matrix as a heat map, with a few ticks; returns what a colour bar needs."""
    step = 5 if len(values) <= 32 else 50
    style = {"cmap": "viridis", "vmax": 1, "xticklabels": step, "yticklabels": step} | style
    sns.heatmap(values, ax=ax, square=True, cbar=False, **style)
    ax.tick_params(length=2, rotation=0)
    return ax.collections[0]


def patches(image: np.ndarray, grid: Sequence[int]) -> Figure:
    """The image (H, W, 3) with the lines between its patches."""
    fig, ax = subplots(figsize=(3.2, 3.4))
    picture(ax, image)
    numbers = np.arange(grid[0] * grid[1]).reshape(grid)
    outline(ax, numbers, image, color="white", linewidth=0.5, alpha=0.6)
    return fig


def matrices(panels: Mapping[str, Any]) -> Figure:
    """Matrices of cosine similarity side by side on one scale, the smallest value to one."""
    fig, axes = subplots(1, len(panels), figsize=(WIDTH * len(panels) / 3, 2.7), squeeze=False)
    arrays = {name: np.asarray(values) for name, values in panels.items()}
    low = np.floor(min(float(values.min()) for values in arrays.values()) * 10) / 10
    for ax, (name, values) in zip(axes.flat, arrays.items()):
        drawn = matrix(ax, values, vmin=low)
        ax.set_title(name)
    fig.colorbar(drawn, ax=axes, shrink=0.85, label="cosine similarity")
    return fig


def kept_patches(
    image: np.ndarray, masks: Mapping[str, Any], grid: Sequence[int], *, columns: int = 5
) -> Figure:
    """The image under several kept sets (N,) bool: dropped patches are veiled."""
    columns = min(columns, len(masks))
    rows = -(-len(masks) // columns)
    fig, axes = subplots(
        rows, columns, figsize=(WIDTH, WIDTH / columns * rows + 0.25 * rows), squeeze=False
    )
    for ax in axes.flat[len(masks) :]:
        ax.set_axis_off()
    for ax, (name, mask) in zip(axes.flat, masks.items()):
        picture(ax, image, name)
        _veil(ax, image, mask, grid)
    return fig


def _veil(ax: Any, image: np.ndarray, mask: Any, grid: Sequence[int]) -> None:
    """Hide the dropped patches under white, and outline the kept ones."""
    height, width = image.shape[:2]
    kept = cells(mask, grid).astype(bool)
    cover = np.ones((*kept.shape, 4))
    cover[..., 3] = np.where(kept, 0, 0.86)
    ax.imshow(cover, extent=(0, width, height, 0), interpolation="nearest")
    outline(ax, kept.astype(int), image, color=BLUE, linewidth=0.7)


def token_maps(
    image: np.ndarray,
    maps: Mapping[str, Any],
    grid: Sequence[int],
    *,
    label: str = "",
    diverging: bool = False,
    shared: bool = False,
    power: float = 1,
    plain: bool = False,
) -> Figure:
    """One panel a map: values (N,) per patch over the image.

    `diverging` centres the colours on zero; `shared` gives all panels one scale; `power` < 1
    spreads small values over more colours. `plain` shows the image alone in a first panel.
    """
    columns = min(4, len(maps) + plain)
    rows = -(-(len(maps) + plain) // columns)
    size = WIDTH * max(columns, 2) / 4, (1.75 if shared else 2.3) * rows + 0.4
    fig, axes = subplots(rows, columns, figsize=size, squeeze=False)
    for ax in axes.flat[len(maps) + plain :]:
        ax.set_axis_off()
    if plain:
        picture(axes.flat[0], image, "The image")
    every, drawn = np.concatenate([np.asarray(v) for v in maps.values()]), None
    for ax, (name, values) in zip(axes.flat[int(plain) :], maps.items()):
        scale = _scale(every if shared else np.asarray(values), diverging, power)
        drawn = heat(ax, image, values, grid, **scale)
        ax.set_title(name)
        if not shared:
            _small_bar(fig, drawn, ax)
    if shared and drawn is not None:
        fig.colorbar(drawn, ax=axes, shrink=0.8, label=label)
    elif label:
        fig.supxlabel(label, fontsize=8)
    return fig


def _scale(values: np.ndarray, diverging: bool, power: float) -> dict[str, Any]:
    if diverging:
        limit = np.abs(values).max()
        return {"cmap": "PuOr", "vmin": -limit, "vmax": limit, "alpha": 0.8}
    return {"norm": PowerNorm(power, vmin=values.min(), vmax=values.max())}


def _small_bar(fig: Figure, drawn: Any, ax: Any) -> None:
    bar = fig.colorbar(drawn, ax=ax, orientation="horizontal", shrink=0.85, pad=0.03, aspect=24)
    bar.ax.tick_params(labelsize=6.5, length=2)
    bar.ax.xaxis.set_major_locator(MaxNLocator(3))
    bar.outline.set_linewidth(0.4)
