"""A line a setting, from its lower to its upper bound."""

import pandas as pd

from lib.study.reports.plots.intervals import forest


def test_a_forest_has_a_line_a_setting():
    frame = pd.DataFrame({"value": [1.0, 2.0], "low": [0.5, 1.5], "high": [1.5, 2.5]}, ["a", "b"])
    figure = forest({"one": frame, "two": frame}, metric="CIDEr", reference=0)
    (ax,) = figure.axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"] * 2
    assert [t.get_text() for t in ax.texts] == ["one", "two"]
    spans = [tuple(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) == 2]
    assert spans.count((0.5, 1.5)) == 2 and (0, 0) in spans
    assert (
        forest({"one": frame.iloc[:0]}, metric="CIDEr") is None and forest({}, metric="x") is None
    )
