"""What every process that runs tests does: one thread, the order of files, methods and clocks.

Many tiny decompositions that fight over cores take ten times longer than with a thread each.
"""

import signal
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lib.pruning import registry

torch.set_num_threads(1)
# What a shell starts in the background ignores Ctrl-C, and so would every process of the tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Files with slow tests first: one that starts last leaves the other worker idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


class _Ticks(TorchDispatchMode):
    """Counts the operations of PyTorch."""

    count = 0

    @classmethod
    def _should_skip_dynamo(cls):
        """Nothing is compiled under it, and switching the compiler off costs more than counting."""
        return False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture(autouse=True, scope="module")
def registered():
    """A method that a test or a notebook registers is known to its module alone."""
    before = dict(registry._REGISTRY)
    yield
    registry._REGISTRY.clear()
    registry._REGISTRY.update(before)


@pytest.fixture
def operations_clock(monkeypatch):
    """`lib.study.cost.timing` tells the time in operations: what contains more takes longer."""
    with _Ticks() as ticks:
        clock = SimpleNamespace(perf_counter=lambda: float(ticks.count))
        monkeypatch.setattr("lib.study.cost.timing.time", clock)
        yield
