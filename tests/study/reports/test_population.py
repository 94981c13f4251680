"""Rows of the population's record, with or without the image that is shown."""

import pytest

from lib.study import paths
from lib.study.files import write_json
from lib.study.reports.population import beside, by_layer, summaries

ONE = {"n": 2, "of": 3, "mean": 1.5, "sd": 0.5, "low": 1.0, "high": 2.0, "values": [1.0, 2.0, None]}
LAYERS = {"n": 3, "of": 3, "mean": [0.1, 0.2], "sd": [0.0, 0.1], "low": [0.0, 0.1]}


@pytest.fixture(autouse=True)
def record(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "results_dir", lambda name: tmp_path / name)
    document = {"measures": {"clusters": {"kept": ONE, "spread": LAYERS}}}
    write_json(tmp_path / "p" / "population.json", document)


def test_plain_measures_have_a_row_and_others_do_not():
    frame = summaries("p", "clusters")
    assert list(frame.index) == ["kept"]
    assert frame.loc["kept"].tolist() == [1.5, 0.5, 1.0, 2.0, 2]
    assert len(summaries("p", "criteria")) == 0
    assert list(summaries("p", "clusters", ["kept", "unknown"]).index) == ["kept"]


def test_the_image_stands_before_the_population():
    frame = beside("p", "clusters", {"kept": 3.0, "not measured": 1.0})
    assert frame.loc["kept"].tolist() == [3.0, 1.5, 0.5, 1.0, 2.0, 2] and len(frame) == 1
    assert next(iter(frame)) == "this image"


def test_layers_have_a_row_each():
    assert by_layer("p", "clusters", ["spread"])["spread"].tolist() == [0.1, 0.2]
    assert by_layer("p", "clusters", ["spread"], value="low")["spread"].tolist() == [0.0, 0.1]


def test_a_missing_record_names_the_command():
    with pytest.raises(FileNotFoundError, match="make reproduce PROFILE=other"):
        summaries("other", "clusters")
