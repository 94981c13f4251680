"""Scores need no model: another process makes them while this one measures the population.

Each of the two keeps one core busy. The population is measured with one thread: the tensors of one
image are so small that several mostly wait for each other, on a busy machine ten times as long.
"""

from __future__ import annotations

import signal
from pathlib import Path

from .. import forking
from ..profiles import Profile
from .population import make_population
from .scores import make_scores
from .sharing import environment_of_workers, threads_each
from .study import Study, threads

__all__ = ["Scoring", "population"]

#: exit codes of the process that scores
MADE, NOTHING, FAILED = 0, 3, 1


class Scoring:
    """Scores on their way in a forked process."""

    def __init__(self, process: forking.Forked) -> None:
        self._process = process

    @classmethod
    def started(cls, study: Study) -> Scoring | None:
        """None unless a process can be had at once, and cores for both."""
        environment = environment_of_workers(threads_each(study.workers))
        if study.workers < 2 or not forking.warmed(environment):
            return None
        folder = Path(__file__).parents[3]
        process = forking.start(_score, study.profile, environment=environment, folder=folder)
        return process and cls(process)

    def finished(self, study: Study) -> bool:
        """Wait for them; False: nothing was missing. What failed is tried here, and says why."""
        code = self._process.wait()
        return make_scores(study) if code not in (MADE, NOTHING) else code == MADE


def population(study: Study) -> bool:
    """`make_population` with one thread."""
    with threads(study.loaded.model.device, 1):
        return make_population(study)


def _score(profile: Profile) -> int:
    # Ctrl-C ends the process that asked, and this one with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return MADE if make_scores(Study(profile, progress=False)) else NOTHING
    except Exception:
        return FAILED
