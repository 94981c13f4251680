"""Data frames as Markdown, LaTeX and HTML, with one way to write a missing number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

__all__ = ["DASH", "cell", "dashed", "html", "interval", "latex", "markdown"]

#: what stands where nothing was measured
DASH = "–"


def cell(value: Any) -> str:
    """One value as a table shows it.

    >>> cell(2.50), cell("x"), cell(None), cell(float("nan"))
    ('2.5', 'x', '–', '–')
    """
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return DASH
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def interval(value: float | None, bounds: Sequence[float] | None, *, digits: int = 1) -> str:
    """A score in per cent with its interval.

    >>> interval(0.375, (0.36, 0.39)), interval(None, None)
    ('37.5 [36.0, 39.0]', '–')
    """
    if value is None:
        return DASH
    shown = f"{100 * value:.{digits}f}"
    if bounds is None:
        return shown
    return f"{shown} [{100 * bounds[0]:.{digits}f}, {100 * bounds[1]:.{digits}f}]"


def dashed(values: pd.Series, digits: int) -> pd.Series:
    """Numbers as text with so many decimals."""
    return values.map(lambda value: DASH if pd.isna(value) else f"{value:,.{digits}f}")


def markdown(frame: pd.DataFrame) -> str:
    """A table of GitHub's Markdown.

    >>> print(markdown(pd.DataFrame({"a": [0.5]}, index=pd.Index(["x"], name="Method"))))
    | Method | a |
    |---|---:|
    | x | 0.5 |
    """
    align = ("left", *("right" for _ in frame.columns))
    text = frame.map(cell).to_markdown(colalign=align, disable_numparse=True)
    # without padding, so that one longer cell does not rewrite every line
    text = re.sub("-{4,}", "---", re.sub(" +", " ", text))
    return text.replace("|:---", "|---", 1)


def latex(frame: pd.DataFrame) -> str:
    r"""A `tabular` with the rules of booktabs; what LaTeX would read as commands is escaped.

    >>> frame = pd.DataFrame({"Kept (%)": [50]}, index=pd.Index(["a_b"], name="Method"))
    >>> print(latex(frame).splitlines()[4])
    a\_b & 50 \\
    """
    table = frame.map(cell).rename_axis(None)
    table.index = table.index.map(str)
    styled = table.style.format(escape="latex")
    styled = styled.format_index(escape="latex").format_index(escape="latex", axis=1)
    text = styled.to_latex(hrules=True, column_format="l" + "r" * len(frame.columns))
    head = frame.index.name or ""
    text = text.replace("\n & ", f"\n{head} & ", 1)
    return text.replace(DASH, "--").replace("−", "$-$").strip()


def html(frame: pd.DataFrame) -> str:
    """A plain `<table>`, every cell escaped."""
    return frame.map(cell).rename_axis(None).to_html(border=0, escape=True)
