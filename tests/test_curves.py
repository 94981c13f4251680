"""The curves show every number they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lib import curves


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def points(ax):
    return sorted(
        (round(float(x), 6), round(float(y), 6))
        for line in ax.lines
        for x, y in zip(line.get_xdata(), line.get_ydata())
    )


def test_a_sweep_draws_every_method_against_every_axis():
    rows = [("Unpruned", 1.0, 1.0, 90.0, 9.0)]
    rows += [(name, k, k, 80 * k, 4 * k) for name in ("ToMe", "New one") for k in (0.5, 0.25)]
    frame = pd.DataFrame(rows, columns=["label", "keep", "kept", "CIDEr", "GFLOPs"])
    frame["CIDEr low"], frame["CIDEr high"] = frame["CIDEr"] - 1, frame["CIDEr"] + 1
    frame.loc[1, "GFLOPs"] = np.nan  # not measured: left out there, drawn elsewhere
    figure = curves.sweep(
        frame, metric="CIDEr", against=[("kept", "share"), ("GFLOPs", "G")], title="T"
    )
    left, right = figure.axes
    assert {(0.25, 20.0), (0.5, 40.0)} <= set(points(left))
    assert (2.0, 40.0) in points(right) and points(right).count((1.0, 20.0)) == 2
    assert points(right).count((2.0, 40.0)) == 1
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["ToMe", "New one", "Unpruned"] and figure.get_suptitle() == "T"


def test_a_forest_has_a_line_a_setting():
    frame = pd.DataFrame({"value": [1.0, 2.0], "low": [0.5, 1.5], "high": [1.5, 2.5]}, ["a", "b"])
    figure = curves.forest({"one": frame, "two": frame}, metric="CIDEr", reference=0)
    (ax,) = figure.axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"] * 2
    assert [t.get_text() for t in ax.texts] == ["one", "two"]
    spans = [tuple(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) == 2]
    assert spans.count((0.5, 1.5)) == 2 and (0, 0) in spans


def test_the_split_adds_up_to_the_whole():
    frame = pd.DataFrame(
        {"end to end (ms)": [100.0], "prefill (ms)": [40.0], "vision (ms)": [20.0],
         "scorer (ms)": [5.0]}, ["FastV"],
    )  # fmt: skip
    figure = curves.split(frame, tokens=8)
    widths = [patch.get_width() for patch in figure.axes[0].patches]
    assert widths == [20, 5, 15, 60] and sum(widths) == 100
    assert "decoding 8 tokens" in [t.get_text() for t in figure.legends[0].get_texts()]


def test_scaling_is_in_milliseconds_by_batch():
    rows = [
        {"method": m, "batch": b, "prefill": {"median": b / 1e3, "low": b / 2e3, "high": b / 1e3}}
        for m in ("unpruned", "fastv")
        for b in (8, 1)
    ]
    (ax,) = curves.scaling(rows, field="prefill", label="ms").axes
    assert points(ax) == [(1.0, 1.0)] * 2 + [(8.0, 8.0)] * 2
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "8"]
