"""A plugin for pytest, `-p tests.lean`: a process of the tests begins, searches and ends sooner.

No test sees a difference. It is loaded before anything that takes long to import.
"""

import atexit
import gc
import os
import sys

import pytest

# What is imported and collected is no garbage: looking for some in it is all in vain.
gc.disable()
# jsonschema would build dozens of grammars to check addresses: notebooks hold none.
sys.modules.setdefault("rfc3987_syntax", None)


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session):
    """The last to be asked as the process ends."""
    atexit.register(_leave, session, os.getpid())
    if session.config.getoption("numprocesses", None):
        _look_for_garbage()  # the workers' process collects nothing


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


def _leave(session, process):
    """All is reported: end without taking apart what was imported, which is waited for."""
    if os.getpid() == process:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(session.exitstatus))
