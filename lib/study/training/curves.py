"""Learning curves."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np


def plot_curves(log: Sequence[dict], stages: Sequence[int]):
    """Losses and learning rate over the steps, the stages marked; a matplotlib figure."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    for name, first, last in (("patch_loss", 1, 2), ("caption_loss", 2, 3)):
        rows = [row for row in log if first <= row["stage"] <= last]
        left.plot(
            [row["step"] for row in rows], [row[name] for row in rows], label=name.replace("_", " ")
        )
    left.set(xlabel="step", ylabel="nats", yscale="log")
    left.legend()
    right.plot([row["step"] for row in log], [row["rate"] for row in log], color="tab:green")
    right.set(xlabel="step", ylabel="learning rate")
    for axes in (left, right):
        for edge in np.cumsum(stages)[:-1]:
            axes.axvline(edge, color="0.7", linewidth=0.8)
    return figure


def plot_stages(log: Sequence[dict]):
    """What each stage of the photograph model's training logs over its steps; a figure."""
    shown = ("agreement", "loss", "caption_loss", "reward")
    names = [name for name in shown if any(name in row for row in log)]
    figure, panels = plt.subplots(
        1, len(names), figsize=(3 * len(names), 2.6), layout="constrained", squeeze=False
    )
    for axes, name in zip(panels[0], names):
        for stage in dict.fromkeys(row["stage"] for row in log if name in row):
            rows = [row for row in log if row["stage"] == stage and name in row]
            axes.plot([r["step"] for r in rows], [r[name] for r in rows], label=stage)
        axes.set(xlabel="step", ylabel=name.replace("_", " "))
        axes.legend(fontsize="small")
    return figure
