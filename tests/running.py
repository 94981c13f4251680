"""What every process that runs tests does: one thread, the order of files, methods and clocks.

Many tiny decompositions that fight over cores take ten times longer than with a thread each.
"""

import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lib.pruning import registry

torch.set_num_threads(1)
# What a shell starts in the background ignores Ctrl-C, and so would every process of the tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


HERE = Path(__file__).parent
#: what runs long in lines that other tests reach, too: tracing them would take half as long again
UNTRACED = (
    "decoding/test_families.py", "decoding/test_options.py", "pruning/engine",
    "pruning/families/test_contract.py", "pruning/test_compiled.py", "pruning/test_contract.py",
    "selection/test_strategies.py",
    "study/captioning/test_families.py", "study/cost/test_latency.py", "study/cost/test_rounds.py",
    "study/reports/plots/test_every_figure.py", "study/stages/test_costs.py",
    "study/stages/test_divergence.py", "study/test_divergence.py", "study/test_other_models.py",
    "study/test_photos_profile.py", "study/test_run.py", "study/test_trials.py",
    "test_architecture.py", "test_families_page.py",
)  # fmt: skip


def pytest_collection_modifyitems(config, items):
    """Files with slow tests first: one that starts last leaves the other worker idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    if config.pluginmanager.hasplugin("pytest_cov"):
        untraced = tuple(HERE / name for name in UNTRACED)
        assert all(path.exists() for path in untraced), "one of UNTRACED has another name now"
        for item in items:
            if any(item.path.is_relative_to(path) for path in untraced):
                item.add_marker("no_cover")


class _Ticks(TorchDispatchMode):
    """Counts the operations of PyTorch."""

    count = 0

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
