"""The stage measures every image once and again only if something has changed."""

import json
import math

import numpy as np
import pytest

from lib.study import models, paths
from lib.study.profiles import load_profile
from lib.study.stages import population
from lib.study.stages.population import make_population, summary
from lib.study.stages.study import Study
from tests import tiny_study


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    folder = tiny_study.make_root(tmp_path_factory.mktemp("root"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "ROOT", folder)
        tiny_study.run(stages=("captions", "population"))
    return folder


def test_every_image_has_a_value_and_the_layers_a_mean(computed, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", computed)
    document = json.loads((paths.run("tiny").results / "population.json").read_text())
    assert document["images"] == 3 and len(document["ids"]) == 3
    measures = document["measures"]
    assert set(measures) == {"attention", "criteria", "clusters", "agreement", "rollout"}
    kept = measures["clusters"]["kept tokens"]
    assert kept["n"] == 3 and kept["mean"] == pytest.approx(np.mean(kept["values"]), rel=1e-4)
    assert len(measures["attention"]["image share"]["mean"]) == 4  # layers
    assert "values" not in measures["attention"]["image share"]
    assert (
        measures["criteria"] == {}
    )  # the listing is a file of its own: nobody knows what it shows


def test_nothing_is_measured_twice(computed, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", computed)
    study = Study(load_profile("tiny"), progress=False)
    assert make_population(study) is False and study.device_name is None
    monkeypatch.setattr(population, "population_code", lambda: "another")
    assert make_population(study) is True


def test_a_model_that_the_figures_do_not_know_has_no_record(computed, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", computed)
    monkeypatch.setattr(population, "population_code", lambda: "a third")
    config = models.read_config("embedded")
    config.vision_feature_select_strategy = "full"
    monkeypatch.setattr(population, "read_config", lambda *_, **__: config)
    study = Study(load_profile("tiny"), progress=False)
    before = (study.folder / "population.json").read_text()
    assert make_population(study) is False and study.device_name is None
    assert (study.folder / "population.json").read_text() == before


def test_a_summary_leaves_out_what_did_not_happen():
    found = summary([1.0, math.nan, 3.0])
    assert (found["n"], found["of"], found["mean"], found["sd"]) == (
        2,
        3,
        2.0,
        pytest.approx(2**0.5, rel=1e-4),
    )
    assert found["values"] == [1.0, None, 3.0]
    assert summary([math.nan]) == {"n": 0, "of": 1, "values": [None]}
    layers = summary([[1.0, 2.0], [3.0, 4.0]])
    assert layers["mean"] == [2.0, 3.0] and layers["median"] == [2.0, 3.0]
