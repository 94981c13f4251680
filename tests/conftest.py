"""What every process that runs tests needs takes seconds to import: it is in `tests.running`."""

import atexit
import gc
import os
import sys

import pytest

from tests.tracing import UNTRACED, Tracing

# What is imported and collected is no garbage; looking for some in it is a tenth of all time.
gc.disable()
# jsonschema would build 39 grammars, for a second, to check addresses: notebooks hold none.
sys.modules.setdefault("rfc3987_syntax", None)


def pytest_configure(config):
    """In xdist's workers pytest-cov starts coverage twice; the first, which nobody reads, would go
    on tracing wherever the second pauses."""
    controller = _coverage(config)
    if not hasattr(config, "workerinput"):
        return
    # all is reported by then; taking apart what was imported is waited for, for seconds
    atexit.register(os._exit, 0)
    if controller is not None:
        controller.cov.stop()


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session):
    """xdist's first process runs no test; coverage has begun in the others by now."""
    config = session.config
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        controller = _coverage(config)
        if controller is not None:
            config.pluginmanager.register(tracing := Tracing(controller, UNTRACED))
            tracing.install()
        config.pluginmanager.import_plugin("tests.running")
    else:
        _look_for_garbage()


def pytest_collection_finish():
    _look_for_garbage()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    if not hasattr(session.config, "workerinput"):
        gc.unfreeze()  # what is imported for the summary may ask who holds it


def _look_for_garbage():
    """Of what is made from here on, and less often than Python would."""
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


def _coverage(config):
    """pytest-cov's controller; None: nothing is measured."""
    plugin = config.pluginmanager.getplugin("_cov")
    return plugin and plugin.cov_controller
