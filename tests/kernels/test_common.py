"""What kernels share, without a GPU."""

import importlib.util
from contextlib import contextmanager

import pytest
import torch

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs Triton: pip install triton"
)


class Stream:
    def __init__(self, done, priority=0):
        self.done, self.priority = done, priority

    def wait_stream(self, other):
        self.done.append((self.priority, "waits for", other.priority))


@pytest.fixture
def done(monkeypatch):
    """What streams do, none of them on a device, while a graph seems to be captured."""
    done: list = []
    current = Stream(done)

    @contextmanager
    def on(stream):
        done.append(("on", stream.priority))
        yield

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current)
    monkeypatch.setattr(torch.cuda, "Stream", lambda priority: Stream(done, priority))
    monkeypatch.setattr(torch.cuda, "stream", on)
    return done


@pytest.mark.parametrize("fails", [False, True])
def test_programs_that_wait_for_each_other_go_first_in_a_graph(done, fails):
    from lib.kernels.common import _FIRST, _at_once

    try:
        with _at_once(torch.device("cuda")):
            done.append("launch")
            assert not fails, "no room"
    except AssertionError as error:
        assert fails and "no room" in str(error)
    waits = (_FIRST, "waits for", 0), (0, "waits for", _FIRST)
    assert done == [waits[0], ("on", _FIRST), "launch", waits[1]]
    assert _FIRST < 0


def test_outside_of_a_graph_streams_stay_as_they_are(done, monkeypatch):
    from lib.kernels.common import _at_once

    with _at_once(torch.device("cpu")):
        pass
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    with _at_once(torch.device("cuda")):
        pass
    assert not done
