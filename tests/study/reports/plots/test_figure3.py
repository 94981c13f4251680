"""Pairs of scores have a box each, and the image that is shown its own mark."""

from lib.study.reports.plots import figure3


def test_the_image_stands_on_the_row_of_its_pair():
    values = {"a ~ b": [0.1, 0.2, 0.3], "a ~ c": [0.5, 0.6, 0.7], "b ~ c": [0.0, 0.1, 0.2]}
    (ax,) = figure3.agreement(values, {"a ~ c": 0.55}).axes
    assert [text.get_text() for text in ax.get_yticklabels()] == list(values)
    (mark,) = [line for line in ax.lines if line.get_label() == "this image"]
    assert (list(mark.get_xdata()), list(mark.get_ydata())) == ([0.55], [1])
    medians = {round(float(x), 6) for line in ax.lines for x in line.get_xdata()}
    assert {0.2, 0.6, 0.1} <= medians
