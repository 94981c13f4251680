"""Figures of places show every criterion, at every budget."""

import pandas as pd
import pytest

from lib.study.reports.plots import places


def frame(budgets=(25.0, 50.0)):
    rows = [
        {"label": label, "layer": layer, "budget": budget, "kept": budget / 100,
         "average": (budget + layer) / 100, "divergence": 0.01 * (1 + layer),
         "divergence low": 0.005, "divergence high": 0.1}
        for budget in budgets for label in ("RandomPrune", "FastV") for layer in (0, 2, 4)
        if (label, layer) != ("FastV", 0)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_panel_a_budget_and_a_line_a_criterion():
    fig = places.layers(frame())
    panels = [ax for ax in fig.axes if ax.get_visible()]
    assert [ax.get_title(loc="left") for ax in panels] == ["50 % kept", "25 % kept"]
    for ax in panels:
        lines = {line.get_label(): line for line in ax.lines}
        assert list(lines["FastV"].get_xdata()) == [2, 4] and ax.get_yscale() == "log"
    (legend,) = fig.legends
    assert {text.get_text() for text in legend.get_texts()} == {"RandomPrune", "FastV"}


def test_places_are_lines_of_their_own_at_equal_averages():
    fig = places.averages(frame())
    lines = {line.get_label(): line.get_linestyle() for line in fig.axes[0].lines}
    assert lines == {"RandomPrune": "-", "RandomPrune, layer 2": "--", "FastV, layer 2": "--"}
    assert places.averages(frame(budgets=(25.0,))) is None, "one budget makes no line"


@pytest.mark.parametrize("draw", [places.layers, places.rates, places.averages])
def test_nothing_measured_is_no_figure(draw):
    assert draw(pd.DataFrame()) is None


def test_rates_are_in_per_cent():
    fig = places.rates(frame().assign(keep=0.25))
    assert fig.axes[0].lines[0].get_xdata().max() == 50
