"""What coverage looks at: what of `lib` is imported, and what tests and their fixtures call.

A traced interpreter is twice as slow, also where it runs pytest, the bodies of test modules, and
those of the libraries that `lib` imports, of which nothing is reported.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

#: the package that is measured
PACKAGE = "lib"
#: what takes long to import: it is there before `lib` asks for it, traced
LIBRARIES = (
    "tests.pruning.families.tiny", "torch._dynamo", "accelerate", "gguf", "huggingface_hub",
    "ipykernel.kernelapp", "ipywidgets", "jinja2", "matplotlib.pyplot", "nbclient", "nbconvert",
    "pandas", "papermill", "peft", "pydantic", "requests", "scipy.ndimage", "scipy.optimize",
    "scipy.stats", "seaborn", "sklearn.cluster", "sklearn.metrics", "typer",
)  # fmt: skip
HERE = Path(__file__).parent
#: what runs long in lines that other tests reach, too: tracing them would take half as long again
UNTRACED = tuple(HERE / name for name in (
    "decoding/test_families.py", "decoding/test_options.py", "pruning/engine",
    "pruning/families/test_contract.py", "pruning/test_compiled.py", "pruning/test_contract.py",
    "selection/test_strategies.py",
    "study/captioning/test_families.py", "study/cost/test_latency.py", "study/cost/test_rounds.py",
    "study/reports/plots/test_every_figure.py", "study/stages/test_costs.py",
    "study/stages/test_divergence.py", "study/test_divergence.py", "study/test_other_models.py",
    "study/test_photos_profile.py", "study/test_run.py", "study/test_trials.py",
    "test_architecture.py", "test_families_page.py",
))  # fmt: skip


class Tracing:
    """A plugin for a process that runs tests with coverage, which is paused but where it counts.

    controller: pytest-cov's, which has started. untraced: files, or folders of them, that run long
    in lines which other tests reach, too.
    """

    def __init__(self, controller, untraced: tuple[Path, ...]) -> None:
        missing = [path for path in untraced if not path.exists()]
        assert not missing, f"tests that are not traced have another name now: {missing}"
        self._controller, self._untraced = controller, untraced
        self._on = True
        self._skipped = False

    def install(self) -> None:
        """Pause, until a module of the package is loaded or a test is called."""
        self._controller.pause()
        self._on = False
        for name in LIBRARIES:
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(name)
        assert PACKAGE not in sys.modules, "it was imported before it is traced"
        load, tracing = SourceFileLoader.exec_module, self

        def exec_module(self, module):
            if module.__name__.split(".")[0] == PACKAGE:
                with tracing.on():
                    load(self, module)
            else:
                load(self, module)

        SourceFileLoader.exec_module = exec_module

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Trace; a function that runs already is not seen any more once this has been left."""
        if self._on:
            yield
            return
        self._controller.resume()
        self._on = True
        try:
            yield
        finally:
            self._controller.pause()
            self._on = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item) -> None:
        self._skipped = any(item.path.is_relative_to(path) for path in self._untraced)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_fixture_setup(self, fixturedef):
        own = fixturedef.func.__module__.split(".")[0] == "tests"
        with self.on() if own and not self._skipped else contextlib.nullcontext():
            return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self):
        with contextlib.nullcontext() if self._skipped else self.on():
            return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_teardown(self):
        with contextlib.nullcontext() if self._skipped else self.on():
            return (yield)
