"""A stage that needs no model is made while another one runs, or else one after the other."""

from types import SimpleNamespace

import pytest
import torch

from lib.study import forking
from lib.study import run as studying
from lib.study.profiles import load_profile
from lib.study.stages import meanwhile
from lib.study.stages.stage import Stage
from lib.study.stages.study import Study


@pytest.fixture
def study():
    return Study(load_profile("smoke"), progress=False, workers=2)


def never(study):
    raise AssertionError("not in this process")


@pytest.mark.parametrize("code, made", [(meanwhile.MADE, True), (meanwhile.NOTHING, False)])
def test_another_process_scores(study, monkeypatch, code, made):
    asked = []

    def start(function, *args, environment, folder, interrupted):
        asked.append((function, args))
        assert not interrupted
        return SimpleNamespace(wait=lambda: code)

    monkeypatch.setattr(forking, "warmed", lambda environment: True)
    monkeypatch.setattr(forking, "start", start)
    assert meanwhile.Meanwhile.started(study, never).finished(study) is made
    assert asked == [(meanwhile._make, (never, study.profile))]


@pytest.mark.parametrize("workers, warm", [(1, True), (2, False)])
def test_no_process_is_started_for_it(study, monkeypatch, workers, warm):
    monkeypatch.setattr(forking, "warmed", lambda environment: warm)
    study.workers = workers
    assert meanwhile.Meanwhile.started(study, never) is None


@pytest.mark.parametrize("result, code", [(True, meanwhile.MADE), (False, meanwhile.NOTHING)])
def test_the_other_process_says_whether_anything_was_missing(study, monkeypatch, result, code):
    asked = []

    def make(other):
        asked.append((other.profile, other.progress, other.workers))
        return result

    assert meanwhile._make(make, study.profile) == code
    assert asked == [(study.profile, False, 1)]


def test_what_fails_there_says_here_why(study, monkeypatch):
    def fail(study):
        raise ValueError("no records")

    code = meanwhile._make(fail, study.profile)
    with pytest.raises(ValueError, match="no records"):
        meanwhile.Meanwhile(fail, SimpleNamespace(wait=lambda: code)).finished(study)


@pytest.mark.parametrize("one_core, expected", [(True, 1), (False, 2)])
def test_a_stage_that_keeps_one_core_busy_has_one_thread(study, one_core, expected):
    stage = Stage(lambda study: torch.get_num_threads(), one_core=one_core)
    study.__dict__["loaded"] = SimpleNamespace(model=SimpleNamespace(device=torch.device("cpu")))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert stage.run(study) == expected and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_may_go_on_beside_what():
    free, alone = Stage(never, model=False), Stage(never, one_core=True)
    assert free.beside(alone)
    assert not alone.beside(free) and not free.beside(Stage(never)) and not free.beside(None)
    assert not Stage(never).beside(alone)


class Elsewhere:
    """A process that is started, or not, and what is waited for."""

    def __init__(self, log, can, made):
        self.log, self.can, self.made = log, can, made

    def started(self, study, make):
        self.make = make
        self.log.append(f"{make.__name__} starts" if self.can else "no process")
        return self if self.can else None

    def finished(self, study):
        self.log.append(f"{self.make.__name__} waited for")
        return self.made


STAGES = {"first": {}, "free": {"model": False}, "single": {"one_core": True}, "timed": {}}


@pytest.mark.parametrize(
    "can, made, wanted, log, times",
    [
        (True, True, "first free single timed",
         "first, free starts, single, free waited for, timed", "first single free timed"),
        (True, False, "first free single timed",
         "first, free starts, single, free waited for, timed", "first single timed"),
        (False, True, "first free single timed",
         "first, no process, free, single, timed", "first free single timed"),
        (True, True, "free timed", "free, timed", "free timed"),
        (True, True, "free", "free", "free"),
        (True, True, "free single", "free starts, single, free waited for", "single free"),
    ],
)  # fmt: skip
def test_a_study_waits_for_what_went_on_beside(study, monkeypatch, can, made, wanted, log, times):
    """By what stages declare, whatever they are called."""
    did = []

    def stage(name, how):
        def make(study):
            did.append(name)
            return True

        make.__name__ = name
        return Stage(make, **how)

    monkeypatch.setattr(studying, "STAGES", {k: stage(k, how) for k, how in STAGES.items()})
    monkeypatch.setattr(studying, "Meanwhile", Elsewhere(did, can, made))
    loaded = SimpleNamespace(model=SimpleNamespace(device=torch.device("cpu")))
    study.__dict__["loaded"] = loaded
    assert [name for name, _ in studying._made(study, wanted.split())] == times.split()
    assert did == log.split(", ")


def test_only_scores_need_no_model():
    alone = [name for name in studying.STAGES if not studying.needs_model([name])]
    assert alone == ["scores"] and studying.needs_model(["scores", "population"])
    assert studying.STAGES["scores"].beside(studying.STAGES["population"])
