"""The sweep shows every number it is given."""

import numpy as np
import pandas as pd

from lib.study.reports.plots import ablations


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
    figure = ablations.sweep(frame, metric="CIDEr", against=[("kept", "share"), ("GFLOPs", "G")])
    left, right = figure.axes
    assert {(0.25, 20.0), (0.5, 40.0)} <= set(points(left))
    assert (2.0, 40.0) in points(right) and points(right).count((1.0, 20.0)) == 2
    assert points(right).count((2.0, 40.0)) == 1
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["ToMe", "New one", "Unpruned"]
