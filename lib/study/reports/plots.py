"""Draw the figures from plain arrays, and save them with a caption and a text alternative.

No function here knows a model. Each returns a `matplotlib.figure.Figure`; `save` writes it to
`figures/<profile>/` as PNG and SVG beside a JSON with caption and alt text, which the report reads.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch

from ..paths import figures_dir
from ..run import mark

STYLE = Path(__file__).with_name("study.mplstyle")
plt.style.use(STYLE)

BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000",
)  # fmt: skip
GREY = "#9a9a9a"
WIDTH = 7.4  # inches, of every figure

# --- saving -----------------------------------------------------------------------------------


class Picture:
    """A drawn figure as a notebook shows it: a PNG with a text alternative.

    `paths` maps kind to file for a saved figure and is empty otherwise.
    """

    def __init__(
        self, png: bytes, alt: str, width: float, paths: Mapping[str, Path] | None = None
    ) -> None:
        self.png, self.alt, self.width, self.paths = png, alt, int(width), dict(paths or {})

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        name = f"{self.paths['png'].stem}: {', '.join(self.paths)}" if self.paths else "a picture"
        data = {"image/png": base64.b64encode(self.png).decode(), "text/plain": name}
        return data, {"image/png": {"alt": self.alt, "width": self.width}}


def show(fig: Figure, *, alt: str) -> Picture:
    """The figure as the last value of a notebook cell, with an alt text and without saving it."""
    if not alt.strip():
        raise ValueError("alt must not be empty")
    png = _rendered(fig, "png", dpi=110)
    plt.close(fig)
    return Picture(png, alt.strip(), 100 * fig.get_figwidth())


def _rendered(fig: Figure, kind: str, **options: Any) -> bytes:
    """The bytes of a figure, which depend on the figure alone: no date, fixed ids."""
    buffer = io.BytesIO()
    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}[kind]
    with mpl.rc_context({"svg.hashsalt": "entropy-prune"}):
        fig.savefig(buffer, format=kind, metadata=metadata, **options)
    return buffer.getvalue()


def save(fig: Figure, name: str, profile: str, *, caption: str, alt: str) -> Picture:
    """Write `figures/<profile>/<name>.png`, `.svg`, `.json` (caption, alt text); close `fig`.

    The bytes depend on the figure alone: no date, fixed ids. Each file appears whole. As the last
    value of a notebook cell, what is returned shows the saved picture. What `lib.study.run.mark`
    says
    of a profile stands under the title and opens caption and alt text.

    Raises:
        ValueError: a name that is no plain file name, or an empty caption or alt text.
    """
    if not name or name != Path(name).name or name.startswith(".") or Path(name).suffix:
        raise ValueError(f"name must be a plain file name without suffix, got {name!r}")
    for what, text in (("caption", caption), ("alt", alt)):
        if not text.strip():
            raise ValueError(f"{what} of figure {name!r} must not be empty")
    if said := mark(profile):
        fig.suptitle("\n".join(filter(None, [fig.get_suptitle(), f"({said})"])), x=0.01, ha="left")
        first = f"{said[0].upper()}{said[1:]}."
        caption, alt = f"{first} {caption.strip()}", f"{first} {alt.strip()}"
    folder = figures_dir(profile)
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for kind in ("png", "svg"):
        written[kind] = _write(folder / f"{name}.{kind}", _rendered(fig, kind))
    about = {"name": name, "profile": profile, "caption": caption.strip(), "alt": alt.strip()}
    text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    written["json"] = _write(folder / f"{name}.json", text.encode())
    plt.close(fig)
    return Picture(written["png"].read_bytes(), about["alt"], 100 * fig.get_figwidth(), written)


def _write(path: Path, content: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


# --- images and tokens ------------------------------------------------------------------------


def _picture(ax: Any, image: np.ndarray, title: str = "") -> None:
    height, width = image.shape[:2]
    ax.imshow(image, extent=(0, width, height, 0), interpolation="antialiased")
    ax.set(xticks=[], yticks=[], title=title)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _claim(fig: Figure, title: str) -> Figure:
    """The figure's claim above its panels, left-aligned."""
    if title:
        fig.suptitle(title, x=0.01, ha="left")
    return fig


def _cells(values: Any, grid: Sequence[int]) -> np.ndarray:
    values = np.asarray(values)
    if values.shape != (grid[0] * grid[1],):
        raise ValueError(f"expected {grid[0] * grid[1]} values for grid {grid}, got {values.shape}")
    return values.reshape(grid)


def _veil(ax: Any, image: np.ndarray, mask: Any, grid: Sequence[int]) -> None:
    """Hide the dropped patches under white, and outline the kept ones."""
    height, width = image.shape[:2]
    kept = _cells(mask, grid).astype(bool)
    cover = np.ones((*kept.shape, 4))
    cover[..., 3] = np.where(kept, 0, 0.86)
    ax.imshow(cover, extent=(0, width, height, 0), interpolation="nearest")
    _outline(ax, kept.astype(int), image, color=BLUE, linewidth=0.7)


def _outline(ax: Any, labels: np.ndarray, image: np.ndarray, **style: Any) -> None:
    """Lines between neighbouring cells of different label."""
    height, width = image.shape[:2]
    rows, columns = labels.shape
    dy, dx = height / rows, width / columns
    lines = []
    for r, c in zip(*np.nonzero(labels[:, 1:] != labels[:, :-1])):
        lines.append([((c + 1) * dx, r * dy), ((c + 1) * dx, (r + 1) * dy)])
    for r, c in zip(*np.nonzero(labels[1:] != labels[:-1])):
        lines.append([(c * dx, (r + 1) * dy), ((c + 1) * dx, (r + 1) * dy)])
    ax.add_collection(mpl.collections.LineCollection(lines, **style))


def _heat(ax: Any, image: np.ndarray, values: Any, grid: Sequence[int], **style: Any) -> Any:
    """Values per patch over a grey version of the image."""
    height, width = image.shape[:2]
    grey = image.mean(-1).astype(np.uint8)
    _picture(ax, np.repeat(grey[..., None], 3, -1))
    style = {"cmap": "viridis", "alpha": 0.72} | style
    return ax.imshow(_cells(values, grid), extent=(0, width, height, 0), **style)


def show_image(image: np.ndarray, grid: Sequence[int], *, title: str = "") -> Figure:
    """The image (H, W, 3) with the lines between its patches."""
    fig, ax = plt.subplots(figsize=(3.2, 3.4))
    _picture(ax, image, title)
    patches = np.arange(grid[0] * grid[1]).reshape(grid)
    _outline(ax, patches, image, color="white", linewidth=0.5, alpha=0.6)
    return fig


def token_maps(
    image: np.ndarray, maps: Mapping[str, Any], grid: Sequence[int], *, label: str = "",
    diverging: bool = False, title: str = "", shared: bool = False, power: float = 1,
    plain: bool = False,
) -> Figure:  # fmt: skip
    """One panel a map: values (N,) per patch over the image.

    `diverging` centres the colours on zero; `shared` gives all panels one scale; `power` < 1
    spreads small values over more colours. `plain` shows the image alone in a first panel.
    """
    panels = len(maps) + plain
    columns = min(4, panels)
    rows = -(-panels // columns)
    fig, axes = plt.subplots(
        rows,
        columns,
        figsize=(WIDTH * max(columns, 2) / 4, (1.75 if shared else 2.3) * rows + 0.4),
        squeeze=False,
    )
    every = np.concatenate([np.asarray(v) for v in maps.values()])
    for ax in axes.flat[panels:]:
        ax.set_axis_off()
    if plain:
        _picture(axes.flat[0], image, "The image")
    drawn = None
    for ax, (name, values) in zip(axes.flat[int(plain) :], maps.items()):
        scale = every if shared else np.asarray(values)
        limits = {"vmin": scale.min(), "vmax": scale.max()}
        style: dict[str, Any] = {"norm": mpl.colors.PowerNorm(power, **limits)}
        if diverging:
            limit = np.abs(scale).max()
            style = {"cmap": "PuOr", "vmin": -limit, "vmax": limit, "alpha": 0.8}
        drawn = _heat(ax, image, values, grid, **style)
        ax.set_title(name)
        if not shared:
            _small_bar(fig, drawn, ax)
    if shared and drawn is not None:
        fig.colorbar(drawn, ax=axes, shrink=0.8, label=label)
    elif label:
        fig.supxlabel(label, fontsize=8)
    return _claim(fig, title)


def _small_bar(fig: Figure, drawn: Any, ax: Any) -> None:
    bar = fig.colorbar(drawn, ax=ax, orientation="horizontal", shrink=0.85, pad=0.03, aspect=24)
    bar.ax.tick_params(labelsize=6.5, length=2)
    bar.ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(3))
    bar.outline.set_linewidth(0.4)


def matrices(panels: Mapping[str, Any], *, label: str = "cosine similarity") -> Figure:
    """Square matrices side by side on one scale, the smallest value to one."""
    fig, axes = plt.subplots(1, len(panels), figsize=(WIDTH * len(panels) / 3, 2.7), squeeze=False)
    arrays = {name: np.asarray(matrix) for name, matrix in panels.items()}
    low = np.floor(min(float(matrix.min()) for matrix in arrays.values()) * 10) / 10
    for ax, (name, matrix) in zip(axes.flat, arrays.items()):
        drawn = ax.imshow(matrix, vmin=low, vmax=1)
        ax.set_title(name)
        ax.tick_params(length=2)
    fig.colorbar(drawn, ax=axes, shrink=0.85, label=label)
    return fig


def kept_patches(
    image: np.ndarray, masks: Mapping[str, Any], grid: Sequence[int], *, title: str = ""
) -> Figure:
    """The image under several kept sets (N,) bool: dropped patches are veiled."""
    columns = min(5, len(masks))
    rows = -(-len(masks) // columns)
    fig, axes = plt.subplots(
        rows, columns, figsize=(WIDTH, WIDTH / columns * rows + 0.25 * rows), squeeze=False
    )
    for ax in axes.flat[len(masks) :]:
        ax.set_axis_off()
    for ax, (name, mask) in zip(axes.flat, masks.items()):
        _picture(ax, image, name)
        _veil(ax, image, mask, grid)
    return _claim(fig, title)


# --- Figure 1 ---------------------------------------------------------------------------------


def attention_by_layer(
    shares: np.ndarray, counts: Sequence[int], parts: Sequence[str], *, quoted: float | None = None,
    title: str = "",
) -> Figure:  # fmt: skip
    """Figure 1: where output tokens look in each layer, and what one image token gets.

    `shares` (L, 4) sum to one in each layer; `counts` are the tokens of each part. `quoted` is a
    ratio to draw for comparison.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.9), width_ratios=(1.15, 1))
    layers = np.arange(len(shares))
    bottom = np.zeros(len(shares))
    colours = (GREY, BLUE, ORANGE, GREEN)
    for part, column, colour, hatch in zip(parts, shares.T, colours, ("", "", "//", "..")):
        left.bar(
            layers, column, bottom=bottom, width=0.85, color=colour, label=part, hatch=hatch,
            edgecolor="white", linewidth=0.3,
        )  # fmt: skip
        bottom += column
    left.set(xlabel="language layer", ylabel="share of attention", ylim=(0, 1))
    left.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    left.set_title("Where output tokens look")
    left.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4, columnspacing=1.2, handlelength=1.2
    )
    per_token = shares / np.maximum(np.asarray(counts), 1)
    system, image, instruction = (parts.index(p) for p in ("system", "image", "instruction"))
    for index, colour, marker in (
        (system, "#6f6f6f", "s"),
        (instruction, ORANGE, "^"),
        (image, BLUE, "o"),
    ):
        right.plot(layers, per_token[:, index], color=colour, marker=marker, label=parts[index])
    if quoted is not None:
        right.plot(
            layers, quoted * per_token[:, system], color="#6f6f6f", linestyle=":", linewidth=1.2,
            label=f"{quoted:.2%} of system",
        )  # fmt: skip
    right.set(xlabel="language layer", ylabel="attention per token", yscale="log")
    right.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    right.set_title("What an average token gets")
    right.legend(
        loc="upper center", bbox_to_anchor=(0.45, -0.2), ncols=4, columnspacing=1, handlelength=1.4
    )
    return _claim(fig, title)


# --- Figure 2 ---------------------------------------------------------------------------------


def similarity_order(gram: np.ndarray) -> np.ndarray:
    """An order (M,) of clusters in which similar ones are neighbours (Fiedler vector)."""
    weight = np.clip(gram, 0, None)
    degree = np.maximum(weight.sum(1), 1e-12)
    scaled = weight / np.sqrt(degree[:, None] * degree[None, :])
    vector = np.linalg.eigh(scaled)[1][:, -2] if len(gram) > 1 else np.zeros(1)
    vector = vector * np.sign(vector[np.abs(vector).argmax()] or 1)
    return np.argsort(np.round(vector, 6), kind="stable")


def clusters(
    image: np.ndarray, labels: np.ndarray, order: np.ndarray, grid: Sequence[int], *,
    title: str = "",
) -> Figure:  # fmt: skip
    """Figure 2: clusters over the image, numbered and coloured in `order`, and their sizes."""
    fig, (plain, ax, sizes) = plt.subplots(1, 3, figsize=(WIDTH, 2.95), width_ratios=(1, 1, 0.62))
    n = len(order)
    rank = np.empty(n, int)
    rank[order] = np.arange(n)
    numbered = rank[np.asarray(labels)]
    _picture(plain, image, "The image")
    cells = _cells(numbered, grid)
    _heat(ax, image, numbered, grid, alpha=0.62, vmin=0, vmax=n - 1)
    _outline(ax, cells, image, color="white", linewidth=1.0)
    ax.set_title(f"{len(np.unique(labels))} clusters")
    dy, dx = image.shape[0] / grid[0], image.shape[1] / grid[1]
    for cluster in np.unique(numbered):
        rows, columns = np.nonzero(cells == cluster)
        # the member nearest the middle of all members carries the number
        middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
        ax.text(
            (columns[middle] + 0.5) * dx, (rows[middle] + 0.5) * dy, str(cluster + 1),
            ha="center", va="center", fontsize=5.5, color="white", weight="bold",
            path_effects=[_halo()],
        )  # fmt: skip
    count = np.bincount(numbered, minlength=n)
    by_size = np.argsort(-count, kind="stable")
    colours = [RED if c == 1 else BLUE for c in count[by_size]]
    sizes.barh(np.arange(n), count[by_size], color=colours, height=0.8)
    sizes.invert_yaxis()
    sizes.set(xlabel="tokens", yticks=[], ylabel="clusters, largest first")
    sizes.set_title(f"{int((count == 1).sum())} hold one token")
    return _claim(fig, title)


def _halo() -> Any:
    from matplotlib.patheffects import withStroke

    return withStroke(linewidth=1.4, foreground="black")


# --- Figure 3 ---------------------------------------------------------------------------------


def rollout_flow(
    operators: np.ndarray, merged: np.ndarray, names: Sequence[str], image: np.ndarray,
    importance: np.ndarray, grid: Sequence[int], *, scale: str = "/L", title: str = "",
) -> Figure:  # fmt: skip
    """Figure 3: operators (L, M, M), what has been merged after each layer, and the result.

    `importance` (N,) is each token's cluster score, drawn over the image. Clusters are ordered by
    the last merged diagonal, most important first.
    """
    depth = len(operators)
    order = np.argsort(-np.diagonal(merged[-1]), kind="stable")
    pick = np.ix_(order, order)
    fig = plt.figure(figsize=(WIDTH, 1.5 + 9.6 / (depth + 1)))
    fig.get_layout_engine().set(hspace=0.09)
    axes = fig.subplots(2, depth + 1, width_ratios=[1] * depth + [1.15])
    rows = ([o[pick] for o in operators], [m[pick] for m in merged])
    for row, (panels, symbol) in enumerate(zip(rows, ("H", "H\u0303"))):
        spread = max(float(np.abs(p - np.diag(np.diagonal(p))).max()) for p in panels)
        for column, panel in enumerate(panels):
            ax = axes[row, column]
            drawn = ax.imshow(
                panel, cmap="PuOr_r", vmin=-spread, vmax=spread, interpolation="nearest"
            )
            ax.set(xticks=[], yticks=[])
            for spine in ax.spines.values():
                spine.set(visible=True, linewidth=0.5)
            ax.set_xlabel(f"trace {np.trace(panel):.2f}", fontsize=7, labelpad=2)
            head = f"${symbol[0]}^{{{names[column].split()[-1]}}}$"
            if row:
                head = rf"$\tilde{{H}}^{{{names[column].split()[-1]}}}$"
            ax.set_title(head if row else f"{head}  {names[column]}", fontsize=9)
        fig.colorbar(drawn, ax=axes[row, :depth], shrink=0.75, aspect=14, pad=0.01).ax.tick_params(
            labelsize=6.5
        )
    for column in range(depth):
        start = ConnectionPatch(
            (0.5, -0.16), (0.5, 1.22), "axes fraction", "axes fraction",
            axesA=axes[0, column], axesB=axes[1, column], arrowstyle="-|>", color=BLUE,
            mutation_scale=9, linewidth=1.2,
        )  # fmt: skip
        fig.add_artist(start)
        words = "=" if column == 0 else f"× (I+H{scale})"
        axes[1, column].annotate(
            words, (0.56, 1.32), xycoords="axes fraction", fontsize=7.5, color=BLUE, va="center",
            annotation_clip=False,
        )  # fmt: skip
        if column:
            fig.add_artist(
                ConnectionPatch(
                    (1.02, 0.5),
                    (-0.02, 0.5),
                    "axes fraction",
                    "axes fraction",
                    axesA=axes[1, column - 1],
                    axesB=axes[1, column],
                    arrowstyle="-|>",
                    color=BLUE,
                    mutation_scale=9,
                    linewidth=1.2,
                )
            )
    _picture(axes[0, depth], image, "The image")
    _heat(axes[1, depth], image, importance, grid)
    axes[1, depth].set_title("diagonal of " + rf"$\tilde{{H}}^{{{names[-1].split()[-1]}}}$")
    axes[1, depth].set_xlabel("cluster importance", fontsize=7, labelpad=2)
    return _claim(fig, title)


def rank_agreement(
    panels: Mapping[str, Mapping[str, Sequence[float]]], *, depths: Sequence[Sequence[int]],
    title: str = "",
) -> Figure:  # fmt: skip
    """Spearman correlation of each rollout variant with the layers' own scores, against depth.

    `panels` maps a panel's title to {variant: correlations}; `depths` gives each panel's x values.
    """
    fig, axes = plt.subplots(1, len(panels), figsize=(WIDTH, 2.7), sharey=True, squeeze=False)
    looks = {
        "scores": (GREEN, "^", "-"),
        "scaled": (BLUE, "o", "-"),
        "literal": (RED, "s", "--"),
    }
    for ax, (name, lines), depth in zip(axes.flat, panels.items(), depths):
        ax.axhspan(-1.08, 0, color="#f3e9e2", zorder=0)
        ax.axhline(0, color="black", linewidth=0.6)
        for variant, values in lines.items():
            colour, marker, dash = looks.get(variant, (BLACK, "x", ":"))
            ax.plot(depth, values, color=colour, marker=marker, linestyle=dash, label=variant)
        ax.set(xlabel="layers merged", title=name, ylim=(-1.08, 1.08))
        ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
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
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return _claim(fig, title)


# --- Figure 4 ---------------------------------------------------------------------------------


def cluster_scores(
    before: np.ndarray, after: np.ndarray, counts: np.ndarray, core: np.ndarray, *,
    title: str = "",
) -> Figure:  # fmt: skip
    """Figure 4: scores (M,) of all clusters, and of the core clusters when only they are left.

    Clusters keep their place: both panels are in the order of `before`. `after` is NaN where a
    cluster was dropped. The numbers above the bars are the clusters' tokens.
    """
    order = np.argsort(-before, kind="stable")
    fig, axes = plt.subplots(2, 1, figsize=(WIDTH, 3.9), sharex=True, sharey=True)
    place = np.arange(len(order))
    left = int(core.sum())
    texts = (
        f"Before: {len(order)} clusters, the {left} best are kept",
        f"After: the same scores among the {left} kept clusters alone",
    )
    for ax, scores, text in zip(axes, (before, after), texts):
        colours = np.where(core[order], BLUE, "#c9c9c9")
        values = np.nan_to_num(scores[order])
        ax.bar(place, values, color=colours, width=0.8)
        ax.axhline(0, color="black", linewidth=0.6)
        ax.set_title(text)
        ax.set_ylabel("$S$ (nats)")
    for x, cluster in enumerate(order):
        top = max(before[cluster], 0)
        axes[0].annotate(
            str(counts[cluster]), (x, top), xytext=(0, 1.5), textcoords="offset points",
            ha="center", fontsize=6.5, color="#444444",
        )  # fmt: skip
    axes[0].text(
        0.995, 0.93, "numbers: tokens in the cluster", transform=axes[0].transAxes, ha="right",
        va="top", fontsize=7.5, color="#444444",
    )  # fmt: skip
    axes[0].margins(y=0.12)
    axes[1].set(xlabel="clusters, by score before pruning", xticks=[])
    return _claim(fig, title)


# --- Figure 5 ---------------------------------------------------------------------------------


def similarity_before_after(
    before: np.ndarray, after: np.ndarray, notes: Sequence[str], *, sort: np.ndarray | None = None,
    title: str = "",
) -> Figure:  # fmt: skip
    """Figure 5: similarity of all tokens (raster order; with `sort` also by cluster) and the kept.

    `notes` is one line under each panel.
    """
    panels = [("Before", before)]
    if sort is not None:
        panels.append(("By cluster", before[np.ix_(sort, sort)]))
    panels.append(("After", after))
    fig, axes = plt.subplots(1, len(panels), figsize=(WIDTH, 2.9))
    low = np.floor(float(before.min()) * 10) / 10
    for ax, (name, matrix), note in zip(axes, panels, notes):
        drawn = ax.imshow(matrix, vmin=low, vmax=1, interpolation="nearest")
        ax.set_title(f"{name}: {len(matrix)} × {len(matrix)}")
        ax.set_xlabel(note, fontsize=8)
        ax.tick_params(length=2)
        ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5, integer=True))
        ax.yaxis.set_major_locator(mpl.ticker.MaxNLocator(5, integer=True))
    fig.colorbar(drawn, ax=axes, shrink=0.7, aspect=22, label="cosine similarity")
    return _claim(fig, title)


# --- the budget slider ------------------------------------------------------------------------


class BudgetSlider:
    """A slider over kept sets of one image: an ipywidget in JupyterLab, plain HTML elsewhere.

    `masks` maps a number of kept tokens to a bool mask (N,). The HTML holds the image once and the
    indices of every kept set, and works without a kernel or a network.
    """

    def __init__(
        self, image: np.ndarray, masks: Mapping[int, Any], grid: Sequence[int], *, size: int = 336
    ) -> None:
        if not masks:
            raise ValueError("masks is empty: give at least one kept set")
        self.image, self.grid, self.size = image, tuple(grid), size
        self.masks = {int(k): _cells(m, grid).astype(bool) for k, m in sorted(masks.items())}

    def frame(self, kept: int) -> bytes:
        """The picture of one budget as PNG."""
        from PIL import Image

        mask = self.masks[kept]
        picture = Image.fromarray(self.image).resize((self.size, self.size))
        veil = np.asarray(
            Image.fromarray(mask.astype(np.uint8) * 255).resize((self.size, self.size), 0)
        )
        pixels = np.asarray(picture, np.float32)
        pixels = np.where(veil[..., None] > 0, pixels, 255 - (255 - pixels) * 0.14)
        buffer = io.BytesIO()
        Image.fromarray(pixels.round().astype(np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()

    def widget(self) -> Any:
        """The ipywidget: moving the slider exchanges the picture."""
        import ipywidgets as widgets

        counts = list(self.masks)
        slider = widgets.SelectionSlider(
            options=counts, value=counts[len(counts) // 2], description="kept tokens",
            style={"description_width": "initial"}, layout={"width": f"{self.size}px"},
        )  # fmt: skip
        picture = widgets.Image(value=self.frame(slider.value), format="png", width=self.size)
        slider.observe(
            lambda change: setattr(picture, "value", self.frame(change["new"])), names="value"
        )
        return widgets.VBox([slider, picture])

    def html(self) -> str:
        """A self-contained page fragment with a range input and a canvas."""
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(self.image).save(buffer, "PNG")
        source = base64.b64encode(buffer.getvalue()).decode()
        frames = [[k, np.flatnonzero(mask).tolist()] for k, mask in self.masks.items()]
        rows, columns = self.grid
        middle = len(frames) // 2
        return _SLIDER % {
            "size": self.size, "last": len(frames) - 1, "middle": middle, "rows": rows,
            "columns": columns, "frames": json.dumps(frames, separators=(",", ":")),
            "source": source, "kept": frames[middle][0], "all": rows * columns,
        }  # fmt: skip

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle = dict(self.widget()._repr_mimebundle_())
        return bundle | {
            "text/html": self.html(),
            "text/plain": f"BudgetSlider({list(self.masks)})",
        }


_SLIDER = """<figure class="budget-slider" style="margin:0;max-width:%(size)dpx">
<label>kept tokens: <output>%(kept)d</output> of %(all)d
<input type="range" min="0" max="%(last)d" value="%(middle)d" style="width:100%%"
 aria-label="number of kept tokens"></label>
<canvas width="%(size)d" height="%(size)d" style="width:100%%" role="img"
 aria-label="the image with its kept patches; dropped patches are white"></canvas>
<script>(() => {
const root = document.currentScript.parentElement, frames = %(frames)s;
const canvas = root.querySelector("canvas"), pen = canvas.getContext("2d");
const dial = root.querySelector("input"), text = root.querySelector("output");
const picture = new Image();
const draw = () => {
  const [count, kept] = frames[dial.value], w = canvas.width / %(columns)d;
  const h = canvas.height / %(rows)d, stay = new Set(kept);
  text.value = count;
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  pen.fillStyle = "rgba(255,255,255,0.86)";
  for (let i = 0; i < %(all)d; i++) if (!stay.has(i))
    pen.fillRect((i %% %(columns)d) * w, Math.floor(i / %(columns)d) * h, w, h);
};
picture.onload = draw; dial.oninput = draw;
picture.src = "data:image/png;base64,%(source)s";
})();</script></figure>"""
