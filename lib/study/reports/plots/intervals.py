"""Points with their intervals: the differences of Table 1 and the ablations."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from .style import BLACK, BLUE, GREEN, ORANGE, PINK, RED, SKY, WIDTH, subplots

__all__ = ["forest"]


def forest(
    groups: Mapping[str, pd.DataFrame],
    *,
    metric: str,
    reference: float | None = None,
    reference_label: str = "unpruned",
) -> Figure | None:
    """A block a group, a line a setting; None where no group has one.

    groups: {heading: frame} with columns `value`, `low`, `high`, the settings as index.
    reference: a vertical line, such as the unpruned model's score.
    """
    if not any(map(len, groups.values())):
        return None
    lines = sum(len(frame) + 1.2 for frame in groups.values())
    fig, ax = subplots(figsize=(WIDTH, 0.8 + 0.19 * lines))
    y, ticks, names = 0.0, [], []
    for number, (heading, frame) in enumerate(groups.items()):
        ax.text(
            -0.012,
            y,
            heading,
            transform=ax.get_yaxis_transform(),
            ha="right",
            va="center",
            fontweight="bold",
            fontsize=8,
        )
        y += 1
        color = (BLUE, ORANGE, GREEN, PINK, SKY, RED)[number % 6]
        for setting, row in frame.iterrows():
            ax.plot([row["low"], row["high"]], [y, y], color=color, linewidth=1.6)
            ax.plot(row["value"], y, "o", color=color)
            ticks.append(y)
            names.append(setting)
            y += 1
        y += 0.2
    if reference is not None:
        ax.axvline(reference, color=BLACK, linewidth=0.9, linestyle="--", label=reference_label)
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    ax.set_yticks(ticks, names)
    ax.set_ylim(y - 0.4, -0.8)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", linewidth=0.3)
    ax.set_xlabel(metric)
    return fig
