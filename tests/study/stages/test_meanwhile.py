"""Scores are made while the population is measured, or else one after the other."""

from types import SimpleNamespace

import pytest
import torch

from lib.study import forking
from lib.study.profiles import load_profile
from lib.study.stages import meanwhile
from lib.study.stages.study import Study


@pytest.fixture
def study():
    return Study(load_profile("smoke"), progress=False, workers=2)


@pytest.mark.parametrize("code, made", [(meanwhile.MADE, True), (meanwhile.NOTHING, False)])
def test_another_process_scores(study, monkeypatch, code, made):
    asked = []

    def start(function, *args, environment, folder):
        asked.append((function, args))
        return SimpleNamespace(wait=lambda: code)

    monkeypatch.setattr(forking, "warmed", lambda environment: True)
    monkeypatch.setattr(forking, "start", start)
    monkeypatch.delattr(meanwhile, "make_scores")
    assert meanwhile.Scoring.started(study).finished(study) is made
    assert asked == [(meanwhile._score, (study.profile,))]


@pytest.mark.parametrize("workers, warm", [(1, True), (2, False)])
def test_no_process_is_started_for_it(study, monkeypatch, workers, warm):
    monkeypatch.setattr(forking, "warmed", lambda environment: warm)
    study.workers = workers
    assert meanwhile.Scoring.started(study) is None


@pytest.mark.parametrize("result, code", [(True, meanwhile.MADE), (False, meanwhile.NOTHING)])
def test_the_other_process_says_whether_anything_was_missing(study, monkeypatch, result, code):
    monkeypatch.setattr(meanwhile.signal, "signal", lambda *_: None)
    monkeypatch.setattr(meanwhile, "make_scores", lambda study: result)
    assert meanwhile._score(study.profile) == code


def test_what_fails_there_says_here_why(study, monkeypatch):
    def fail(study):
        raise ValueError("no records")

    monkeypatch.setattr(meanwhile.signal, "signal", lambda *_: None)
    monkeypatch.setattr(meanwhile, "make_scores", fail)
    code = meanwhile._score(study.profile)
    with pytest.raises(ValueError, match="no records"):
        meanwhile.Scoring(SimpleNamespace(wait=lambda: code)).finished(study)


def test_the_population_has_one_thread(study, monkeypatch):
    monkeypatch.setattr(meanwhile, "make_population", lambda study: torch.get_num_threads())
    study.__dict__["loaded"] = SimpleNamespace(model=SimpleNamespace(device=torch.device("cpu")))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert meanwhile.population(study) == 1 and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
