"""One look for every figure: colours, width, and a colour and marker a method."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure

__all__ = ["BARS", "LOOK", "WIDTH", "line_style", "look", "subplots"]

matplotlib.style.use(Path(__file__).with_name("study.mplstyle"))

#: Okabe and Ito's palette, safe for colour-blind readers
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, RED, YELLOW, BLACK = "#56B4E9", "#D55E00", "#F0E442", "#000000"
GREY, DARK = "#9a9a9a", "#444444"
#: inches, of every figure
WIDTH = 7.4

#: the same in every figure
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
    "Attention-weighted coverage (ours)": (DARK, "X"),
}


#: what `seaborn.barplot` needs where each bar is one number, in its own colour
BARS = {"width": 0.8, "dodge": False, "legend": False, "saturation": 1, "errorbar": None}


def subplots(
    rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], **options: Any
) -> tuple[Figure, Any]:
    """`pyplot.subplots` for a figure that nobody has to close and no notebook shows by itself."""
    fig = Figure(figsize=figsize)
    return fig, fig.subplots(rows, columns, **options)


def look(method: str) -> tuple[str, str]:
    """Colour and marker of a method, at whatever layer, or those of any other."""
    return LOOK.get(method) or LOOK.get(method.partition(", ")[0], (PINK, "o"))


def line_style(methods: Iterable[str]) -> dict[str, Any]:
    """What `seaborn.lineplot` needs to draw a line a method as everywhere else."""
    names = list(dict.fromkeys(methods))
    return {
        "hue": "label",
        "hue_order": names,
        "palette": {name: look(name)[0] for name in names},
        "style": "label",
        "style_order": names,
        "markers": {name: look(name)[1] for name in names},
        "dashes": False,
        "markeredgecolor": "none",
        "estimator": None,
        "errorbar": None,
    }
