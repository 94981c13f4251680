"""Quality at every budget, against what the budget costs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from .style import BLACK, WIDTH, line_style, look, subplots

__all__ = ["sweep"]


def sweep(frame: pd.DataFrame, *, metric: str, against: Sequence[tuple[str, str]]) -> Figure:
    """Quality against each of `against` [(column, axis label)], a line a method with its band.

    frame: `tables.ablations.sweep`; a metric without bounds has no band. The unpruned model is a
    dashed line.
    """
    fig, axes = subplots(1, len(against), figsize=(WIDTH, 3.1), sharey=True, squeeze=False)
    full = frame[frame["label"] == "Unpruned"]
    pruned = frame[frame["label"] != "Unpruned"]
    for ax, (column, label) in zip(axes.flat, against):
        drawn = pruned.dropna(subset=[column])
        if f"{metric} low" in drawn:
            for name, rows in drawn.sort_values(column).groupby("label", sort=False):
                bounds = rows[f"{metric} low"], rows[f"{metric} high"]
                ax.fill_between(rows[column], *bounds, color=look(name)[0], alpha=0.12, linewidth=0)
        style = line_style(pruned["label"])
        sns.lineplot(drawn, x=column, y=metric, ax=ax, legend=ax is axes.flat[0], **style)
        if len(full):
            ax.axhline(
                full[metric].iloc[0], color=BLACK, linewidth=0.9, linestyle="--", label="Unpruned"
            )
        ax.set_xlabel(label)
    axes.flat[0].set_ylabel(metric)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    if legend := axes.flat[0].get_legend():
        legend.remove()
    fig.legend(handles, labels, loc="outside lower center", ncols=3)
    return fig
