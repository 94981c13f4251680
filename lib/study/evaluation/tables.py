"""Scores as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from .scores import Scores

__all__ = ["DASH", "format_table"]

DASH = "–"


def format_table(
    scores: Mapping[str, Scores],
    *,
    metrics: Sequence[str] | None = None,
    scale: float = 100,
    digits: int = 1,
    markdown: bool = False,
) -> pd.DataFrame | str:
    """One row a method, one column a metric: "37.5 [36.9, 38.1]", a dash where there is no value.

    Parameters
    ----------
    metrics : columns; by default all that were asked for when scoring.
    scale : 100 as in papers, 1 for fractions.
    digits : decimals.
    markdown : return a Markdown table, followed by the reasons of the dashes.

    The DataFrame carries the reasons in `attrs["notes"]`.
    """
    if metrics is None:
        metrics = list(dict.fromkeys(name for one in scores.values() for name in one.values))
    rows = {
        method: [_cell(one, name, scale, digits) for name in metrics]
        for method, one in scores.items()
    }
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=list(metrics))
    frame.index.name = "Method"
    reasons = {name: text for one in scores.values() for name, text in one.reasons.items()}
    frame.attrs["notes"] = {name: text for name, text in reasons.items() if name in metrics}
    if not markdown:
        return frame
    lines = [frame.to_markdown(disable_numparse=True)]
    lines += [f"\n{DASH} {name}: {text}" for name, text in frame.attrs["notes"].items()]
    return "\n".join(lines) + "\n"


def _cell(scores: Scores, name: str, scale: float, digits: int) -> str:
    value, interval = scores.values.get(name), scores.intervals.get(name)
    if value is None:
        return DASH
    shown = f"{value * scale:.{digits}f}"
    if interval is None:
        return shown
    return f"{shown} [{interval[0] * scale:.{digits}f}, {interval[1] * scale:.{digits}f}]"
