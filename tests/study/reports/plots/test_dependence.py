"""Every estimate is drawn, beside the truth and beside the shuffled pairs."""

import pandas as pd

from lib.study.reports.plots import dependence

NAMES = ("binning", "MINE", "matrix MI", "DiME")


def rows(samples, dimensions, truth, start):
    return [
        {"samples": samples, "dimensions": dimensions, "truth": truth, "estimator": name,
         "seed": seed, "value": start + place + seed}
        for place, name in enumerate(NAMES)
        for seed in (0, 1)
    ]  # fmt: skip


def points(ax):
    return {
        (round(float(x), 6), round(float(y), 6))
        for line in ax.lines
        for x, y in zip(line.get_xdata(), line.get_ydata())
    }


def test_each_dimension_has_a_panel_with_the_mean_over_seeds_and_the_truth():
    by_samples = [row for d in (1, 3) for n in (50, 100) for row in rows(n, d, 1.0, d)]
    by_truth = [row for truth in (0.0, 2.0) for row in rows(100, 2, truth, truth)]
    figure = dependence.known(pd.DataFrame(by_samples), pd.DataFrame(by_truth))
    one, three, strength = figure.axes
    assert {(50.0, 1.5), (100.0, 4.5)} <= points(one) and (50.0, 3.5) in points(three)
    assert {(0.0, 1.0), (1.0, 1.0)} <= points(one)  # the truth, from side to side
    assert {(0.0, 0.0), (2.0, 2.0), (0.0, 0.5), (2.0, 5.5)} <= points(strength)
    assert one.get_title("left") == "1 dimension" and three.get_title("left") == "3 dimensions"
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [*NAMES, "truth"]


def test_true_pairs_stand_over_the_shuffled_ones_with_their_interval():
    found = {"paired": 0.3, "low": 0.2, "high": 0.4, "shuffled": [0.0, 0.01, -0.01, 0.02]}
    (ax,) = dependence.pairing({"A": found}).axes
    assert sum(bar.get_height() for bar in ax.patches[:-1]) == 4
    assert 0.3 in [line.get_xdata()[0] for line in ax.lines]
    band = ax.patches[-1]
    assert (round(band.get_x(), 6), round(band.get_width(), 6)) == (0.2, 0.2)
