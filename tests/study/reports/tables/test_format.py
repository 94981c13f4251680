"""One way to write a table, in three languages."""

import re

import numpy as np
import pandas as pd

from lib.study.reports.tables import format

FRAME = pd.DataFrame(
    {"Kept (%)": ["50.0", "29 & 3"], "CIDEr": ["370.7 [350.8, 390.3]", "–"], "n_x": [2.50, np.nan]},
    index=pd.Index(["Entropy − Random", "a_b"], name="Method"),
)


def test_markdown_is_githubs():
    lines = format.markdown(FRAME).splitlines()
    assert lines == [
        "| Method | Kept (%) | CIDEr | n_x |",
        "|---|---:|---:|---:|",
        "| Entropy − Random | 50.0 | 370.7 [350.8, 390.3] | 2.5 |",
        "| a_b | 29 & 3 | – | – |",
    ]


def test_a_longer_cell_changes_its_own_line_alone():
    longer = FRAME.rename(index={"a_b": "a much longer name than before"})
    before, after = (format.markdown(f).splitlines() for f in (FRAME, longer))
    assert [a == b for a, b in zip(before, after)] == [True, True, True, False]


def test_latex_escapes_what_it_would_read_as_commands():
    text = format.latex(FRAME)
    assert re.search(r"(?<!\\)[%_&#$]", text.replace(" & ", " ").replace("$-$", "")) is None
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert rows == [
        r"Method & Kept (\%) & CIDEr & n\_x \\",
        r"Entropy $-$ Random & 50.0 & 370.7 [350.8, 390.3] & 2.5 \\",
        r"a\_b & 29 \& 3 & -- & -- \\",
    ]
    assert text.splitlines()[0] == r"\begin{tabular}{lrrr}"
    assert [line for line in text.splitlines() if "rule" in line] == [
        r"\toprule", r"\midrule", r"\bottomrule",
    ]  # fmt: skip


def test_html_escapes_every_cell():
    text = format.html(pd.DataFrame({"<a>": ["<b>"]}, index=["&"]))
    assert "&lt;a&gt;" in text and "&lt;b&gt;" in text and "&amp;" in text and "<b>" not in text


def test_missing_numbers_are_dashes_everywhere():
    shown = [format.cell(value) for value in (None, float("nan"), np.float64("nan"), pd.NA)]
    assert shown == [format.DASH] * 4
    assert format.interval(None, None) == format.DASH
    assert format.interval(0.5, None) == "50.0"
    assert list(format.dashed(pd.Series([1234.56, np.nan]), 1)) == ["1,234.6", "–"]
