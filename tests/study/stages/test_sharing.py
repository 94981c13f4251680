"""Processes that share the images: a GPU for each, and how many there are."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lib.study import captioning
from lib.study.profiles import load_profile
from lib.study.stages import sharing
from lib.study.stages.study import Study


@pytest.mark.parametrize(
    "first, workers, others", [(0, 4, "123"), (1, 4, "230"), (0, 6, "12301"), (3, 1, "")]
)
def test_every_process_has_a_gpu_of_its_own(monkeypatch, first, workers, others):
    started = []

    class Process:
        def __init__(self, command, env, cwd):
            started.append((command, env))

        def wait(self):
            return 0

        def kill(self):
            pass

    monkeypatch.setattr(sharing.subprocess, "Popen", Process)
    monkeypatch.setattr(sharing.forking, "possible", lambda: False)
    monkeypatch.setattr(sharing.forking, "_born", {})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    study = Study(load_profile("smoke"), progress=False, workers=workers)
    model = SimpleNamespace(device=torch.device("cuda", first))
    study.__dict__["loaded"] = SimpleNamespace(model=model)
    ran = []
    job = SimpleNamespace(run=lambda *_, **place: ran.append(place))
    sharing.together(study, [job, job], stage="divergence")
    assert ran[0] == {"rank": 0, "world_size": workers}, "this process does the first share"
    assert ran[1] == {"rank": 1 % workers, "world_size": workers}, "and then another one"
    assert [env["LOCAL_RANK"] for _, env in started] == list(others)
    assert [int(env["RANK"]) for _, env in started] == list(range(1, workers))
    assert {env["WORLD_SIZE"] for _, env in started} <= {str(workers)}
    for command, _ in started:
        assert command[1:6] == ["-m", "lib", "study", "--profile", "smoke"]
        assert command[6:] == ["--stages", "divergence", "--quiet"]


def test_a_process_is_forked_where_that_is_possible(monkeypatch):
    asked = []

    def start(function, *args, environment, folder):
        asked.append((function, args, environment["RANK"], environment["OMP_NUM_THREADS"]))
        return SimpleNamespace(wait=lambda: 0, kill=lambda: None)

    monkeypatch.setattr(sharing.forking, "start", start)
    monkeypatch.setattr(sharing.os, "cpu_count", lambda: 8)
    study = Study(load_profile("smoke"), progress=False, workers=2)
    study.__dict__["loaded"] = SimpleNamespace(model=SimpleNamespace(device=torch.device("cpu")))
    sharing.together(study, [], stage="captions")
    arguments = ["study", "--profile", "smoke", "--device", "cpu", "--stages", "captions"]
    assert asked == [(sharing.forking.command, ([*arguments, "--quiet"],), "1", "4")]


def test_a_process_that_stops_is_an_error_and_none_is_left_behind(monkeypatch):
    killed = []

    class Process:
        def __init__(self, command, env, cwd):
            self.rank = env["RANK"]

        def wait(self):
            return int(self.rank == "1")

        def kill(self):
            killed.append(self.rank)

    monkeypatch.setattr(sharing.subprocess, "Popen", Process)
    monkeypatch.setattr(sharing.forking, "possible", lambda: False)
    monkeypatch.setattr(sharing.forking, "_born", {})
    study = Study(load_profile("smoke"), progress=False, workers=3)
    study.__dict__["loaded"] = SimpleNamespace(model=SimpleNamespace(device=torch.device("cpu")))
    with pytest.raises(RuntimeError, match="another process stopped"):
        sharing.together(study, [], stage="captions", table=True)
    assert killed == ["1", "2"]


def test_launched_processes_take_turns_with_the_larger_shares(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    taken = []
    for rank in "012":
        monkeypatch.setenv("RANK", rank)
        taken.append([])
        job = SimpleNamespace(run=lambda study, *, rank, world_size: taken[-1].append(rank))
        sharing.share(None, [job] * 4)
    assert taken == [[0, 1, 2, 0], [1, 2, 0, 1], [2, 0, 1, 2]]


def test_a_launched_process_takes_its_gpu(monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert captioning.own_gpu() == "cuda:2" and current == ["cuda:2"]
    monkeypatch.delenv("LOCAL_RANK")
    assert captioning.own_gpu() == "cuda:0"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert captioning.own_gpu() is None


@pytest.mark.parametrize(
    "gpus, device, spread, expected",
    [(4, None, None, 4), (4, "cuda", None, 4), (4, "cuda:1", None, 1), (4, None, "auto", 1),
     (4, "cpu", None, 2), (0, None, None, 2), (0, "cuda", None, 1)],
)  # fmt: skip
def test_captions_are_made_on_every_gpu(monkeypatch, gpus, device, spread, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(sharing.os, "cpu_count", lambda: 8)
    profile = replace(load_profile("smoke"), device_map=spread)
    assert sharing.default_workers(profile, device) == expected


@pytest.mark.parametrize(
    "gpus, device, whole, limit",
    [(1, None, "", 1000), (0, None, "", None), (1, "cpu", "", None), (0, "cuda", "", 1000),
     (0, None, "1", 1000)],
)  # fmt: skip
def test_a_profile_may_be_smaller_without_a_gpu(monkeypatch, gpus, device, whole, limit):
    """limit: None is what the profile says for a machine without a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv(sharing.WHOLE, whole)
    profile = load_profile("photos")
    assert profile.cpu["limit"] < 1000
    assert sharing.suited(profile, device).limit == (limit or profile.cpu["limit"])
    assert sharing.suited(load_profile("smoke"), device) == load_profile("smoke")
