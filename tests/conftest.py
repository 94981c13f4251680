"""What every process that runs tests needs takes seconds to import: it is in `tests.running`."""

import pytest


def pytest_configure(config):
    """In xdist's workers pytest-cov starts coverage twice; the first, which nobody reads, would go
    on tracing wherever the second pauses (`no_cover`)."""
    plugin = config.pluginmanager.getplugin("_cov")
    if hasattr(config, "workerinput") and plugin is not None and plugin.cov_controller is not None:
        plugin.cov_controller.cov.stop()


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session):
    """xdist's first process runs no test; coverage has begun in the others by now."""
    config = session.config
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("tests.running")
