"""Tables of the catalogue, from a summary of known numbers."""

import json

import pandas as pd
import pytest

from lib.study import paths
from lib.study.reports.tables import catalogue
from lib.study.stored import believed


def run(label, average, value, *, ms=None, coverage=None):
    row = {
        "label": label, "method": label.lower(), "options": {"average": {"33": 1 / 3, "22": 2 / 9}[
            average]}, "groups": {"average": average}, "layers": [0], "kept": 12.0, "of": 36.0,
        "average": 12.0, "values": {"divergence": value, "CIDEr": 0.5},
        "intervals": {"divergence": [value / 2, 2 * value], "CIDEr": [0.4, 0.6]},
    }  # fmt: skip
    if ms is not None:
        row |= {"scorer": {"median": ms / 1e3}, "prefill": {"median": ms / 100}}
    return row | ({} if coverage is None else {"coverage": coverage})


def gap(a, b, metric, value, p):
    return {"a": a, "b": b, "metric": metric, "images": 9, "tests": 2, "value": value,
            "low": value - 0.001, "high": value + 0.001, "p_value": p / 2, "p_holm": p,
            "flip_p": p / 2, "flip_holm": p}  # fmt: skip


@pytest.fixture
def stored(bare):
    document = {
        "images": 9, "captioned": 4, "references": 2, "tokens": 36, "depth": 8,
        "machine": {"device": "X", "threads": 1},
        "methods": {
            "unpruned": {"label": "Unpruned", "method": "unpruned", "options": {}, "groups": {},
                         "layers": [], "kept": 36.0, "of": 36.0, "average": 36.0,
                         "values": {"divergence": 0.0}, "intervals": {"divergence": [0, 0]}},
            "random-a33": run("RandomPrune", "33", 0.02),
            "grid-a33": run("Grid", "33", 0.01),
            "random-a22": run("RandomPrune", "22", 0.04, ms=1.0, coverage=0.8),
            "grid-a22": run("Grid", "22", 0.03, ms=2.0, coverage=0.9),
            "bad-a22": run("Bad", "22", 0.05, ms=3.0),
        },
        "comparisons": {
            "random-a33 divergence": [gap("grid-a33", "random-a33", "divergence", -0.01, 0.2)],
            "random-a22 divergence": [
                gap("grid-a22", "random-a22", "divergence", -0.01, 0.01),
                gap("bad-a22", "random-a22", "divergence", 0.01, 0.04),
            ],
            "random-a22 CIDEr": [gap("grid-a22", "random-a22", "CIDEr", 0.1, 0.01)],
        },
    }  # fmt: skip
    profile = bare / "notebooks" / "profiles" / "tiny.yaml"
    profile.write_text(profile.read_text() + "catalogue_limit: 9\n")
    path = paths.results_dir("tiny") / "catalogue.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(document))


def test_a_table_is_sorted_and_stars_what_survives(stored):
    assert list(catalogue.averages("tiny")) == ["33", "22"]
    table = catalogue.table("tiny", "22")
    assert list(table.index) == ["Grid", "RandomPrune", "Bad"]
    assert table.loc["Grid", "minus chance"] == "-.010 [-.011, -.009] *"
    assert table.loc["Bad", "minus chance"] == "+.010 [+.009, +.011] *"
    assert table.loc["RandomPrune", "minus chance"] == "–"
    assert "minus FastV" not in table, "nothing was compared with it"
    other = catalogue.table("tiny", "33")
    assert other.loc["Grid", "minus chance"] == "-.010 [-.011, -.009]"


def test_what_was_timed_comes_the_quickest_first(stored):
    table = catalogue.times("tiny")
    assert list(table.index) == ["RandomPrune", "Grid", "Bad"], "the other average has no times"
    assert table["choosing, ms"].tolist() == ["1.00", "2.00", "3.00"]
    assert table["first token, ms"].tolist() == ["10.00", "20.00", "30.00"]
    assert table["coverage"].tolist() == ["0.800", "0.900", "–"]
    assert table["divergence"].tolist() == [".040", ".030", ".050"]


def test_a_column_without_a_value_is_left_out(stored):
    path = paths.results_dir("tiny") / "catalogue.json"
    document = json.loads(path.read_text())
    for row in document["methods"].values():
        row.pop("coverage", None)
    path.write_text(json.dumps(document))
    assert "coverage" not in catalogue.times("tiny")


def test_verdicts_count_by_the_sign_of_the_metric(stored):
    found = catalogue.verdicts("tiny")
    assert found.loc["divergence against chance, 8 tokens"].tolist() == [1, 1, 0]
    assert found.loc["divergence against chance, 12 tokens"].tolist() == [0, 0, 1]
    assert found.loc["CIDEr against chance, 8 tokens"].tolist() == [1, 0, 0]
    first, second = catalogue.findings("tiny")
    assert "At 12 tokens on average 0 of 1 runs move the predictions less than chance" in first
    assert "1 of 2 runs" in second and second.endswith("1 move them more: Grid.")


def test_one_test_alone_does_not_survive(stored):
    one = gap("a", "b", "divergence", -1.0, 0.01)
    assert believed(one)
    assert not believed(one | {"flip_holm": 0.06})
    assert not believed(one | {"p_holm": 0.05})


def test_the_frontier_is_what_nothing_beats_in_both(stored):
    frame = catalogue.numbers("tiny")
    best = catalogue.frontier(frame[frame["average"] == "22"])
    assert best["label"].tolist() == ["RandomPrune", "Grid"]
    assert catalogue.said(best) == "RandomPrune .040, Grid .030"
    assert catalogue.frontier(frame[frame["average"] == "33"]).empty, "nothing was timed there"


def test_without_a_catalogue_it_says_why(bare):
    assert "catalogue_limit is 0" in catalogue.about("tiny")
    assert catalogue.numbers("tiny").empty and catalogue.table("tiny", "22").empty
    assert catalogue.times("tiny").empty
    assert catalogue.verdicts("tiny").empty and catalogue.findings("tiny") == []
    assert catalogue.averages("tiny") == {} and catalogue.said(pd.DataFrame()) == "–"
