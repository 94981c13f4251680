"""Data frames as Markdown, LaTeX and HTML, with one way to write a missing number."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ...stored import corrected

__all__ = [
    "DASH",
    "cell",
    "dashed",
    "html",
    "interval",
    "latex",
    "markdown",
    "nats",
    "p_value",
    "p_values",
]

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


def nats(value: float, bounds: Sequence[float] | None = None, *, sign: bool = False) -> str:
    """A divergence in nats, with its interval; two digits that count, more below a thousandth.

    >>> nats(0.02071, (0.0185, 0.0229)), nats(-0.00123, sign=True), nats(0.0)
    ('.021 [.018, .023]', '-.0012', '0')
    """
    smallest = abs(value) if value else 1.0
    digits = 3 if smallest >= 0.0095 else 4 if smallest >= 0.00095 else 5
    form = f"{{:{'+' if sign else ''}.{digits}f}}"

    def one(number: float) -> str:
        if number == 0:
            return "0"
        return form.format(number).replace("0.", ".", 1) if abs(number) < 1 else form.format(number)

    shown = one(value)
    return shown if bounds is None else f"{shown} [{one(bounds[0])}, {one(bounds[1])}]"


def p_values(comparison: Mapping[str, float]) -> str:
    """The p-value of a comparison and the corrected one; the larger of bootstrap and sign flips.

    >>> p_values({"p_value": 0.0123, "flip_p": 0.01, "p_holm": 0.2, "flip_holm": 0.00001})
    'p .012, .20'
    """
    plain = max(comparison["p_value"], comparison["flip_p"])
    return f"p {p_value(plain)}, {p_value(corrected(comparison))}"


def p_value(value: float) -> str:
    """A p-value with two digits that count.

    >>> p_value(0.0123), p_value(0.2), p_value(0.00001), p_value(1.0)
    ('.012', '.20', '< .001', '1')
    """
    if value >= 0.995:
        return "1"
    if value < 0.001:
        return "< .001"
    return f"{value:.2f}".removeprefix("0") if value >= 0.1 else f"{value:.3f}".removeprefix("0")


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


def html(frame: pd.DataFrame, *, index: bool = True) -> str:
    """A plain `<table>`, every cell escaped."""
    return frame.map(cell).rename_axis(None).to_html(border=0, escape=True, index=index)
