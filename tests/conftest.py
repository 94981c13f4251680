"""What every process that runs tests needs takes seconds to import: it is in `tests.running`."""

import pytest

from tests.tracing import UNTRACED, Tracing

SCORED = "tests/study/evaluation/"


def pytest_configure(config):
    """In xdist's workers pytest-cov starts coverage twice; the first, which nobody reads, would go
    on tracing wherever the second pauses."""
    controller = _coverage(config)
    if hasattr(config, "workerinput") and controller is not None:
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


def _coverage(config):
    """pytest-cov's controller; None: nothing is measured."""
    plugin = config.pluginmanager.getplugin("_cov")
    return plugin and plugin.cov_controller


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Files to workers, but what is scored to one of them: METEOR loads its tables for seconds."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling  # optional

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return SCORED if nodeid.startswith(SCORED) else super()._split_scope(nodeid)

    return ByFile(config, log)
