"""Figures of the catalogue: a line a method, a point an average; names where they belong."""

import itertools

import pandas as pd

from lib.study.reports.plots import catalogue
from lib.study.reports.tables.catalogue import frontier

AVERAGES = {"33": 192.0, "22": 128.0, "11": 64.0}


def frame():
    rows = {
        f"{label}-a{name}": {
            "label": label, "average": name, "divergence": value * (1 + place),
            "divergence low": value / 2, "divergence high": 4 * value,
            "ms": ms if name == "22" else float("nan"),
        }
        for place, name in enumerate(AVERAGES)
        for label, value, ms in (("RandomPrune", 0.02, 0.5), ("FastV", 0.01, 2.0), ("X", 0.03, 1.0))
        if (label, name) != ("FastV", "11")
    }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def test_methods_stand_by_the_middle_average():
    (ax,) = catalogue.ranking(frame(), AVERAGES).axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["FastV", "RandomPrune", "X"]
    points = {line.get_label(): len(line.get_xdata()) for line in ax.lines}
    assert points == {f"{n} tokens on average": k for n, k in ((192, 3), (128, 3), (64, 2))}
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the best on top"


def test_the_line_joins_the_best():
    middle = frame()[frame()["average"] == "22"]
    best = frontier(middle)
    (ax,) = catalogue.pareto(middle, best).axes
    assert list(ax.lines[0].get_xdata()) == [0.5, 2.0]
    assert {text.get_text() for text in ax.texts} == {"RandomPrune", "FastV"}
    (ax,) = catalogue.pareto(middle, middle).axes
    assert {text.get_text() for text in ax.texts} == {"RandomPrune", "FastV", "X"}


def test_no_name_covers_another():
    middle = frame()[frame()["average"] == "22"]
    near = middle.assign(ms=[2.0, 2.02, 2.04], divergence=[0.02, 0.0201, 0.0199])
    figure = catalogue.pareto(near, near)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 3
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_nothing_measured_is_no_figure():
    empty = pd.DataFrame()
    assert catalogue.ranking(empty, {}) is None and catalogue.pareto(empty, empty) is None
    untimed = frame().assign(ms=float("nan"))
    assert catalogue.pareto(untimed, untimed) is None
