"""A stage on its way in another process, while this one does the next.

Each of the two keeps one core busy: see `lib.study.stages.stage.Stage`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .. import forking
from ..cores import environment_of_workers
from ..profiles import Profile
from .study import Study

__all__ = ["Meanwhile"]

#: exit codes of the other process
MADE, NOTHING, FAILED = 0, 3, 1

Make = Callable[[Study], bool]


class Meanwhile:
    """What a forked process makes of a study."""

    def __init__(self, make: Make, process: forking.Forked) -> None:
        self._make, self._process = make, process

    @classmethod
    def started(cls, study: Study, make: Make) -> Meanwhile | None:
        """None unless a process can be had at once, and cores for both.

        make: a function of a module that needs no model; False: nothing was missing.
        """
        environment = environment_of_workers(study.workers)
        if study.workers < 2 or not forking.warmed(environment):
            return None
        folder = Path(__file__).parents[3]
        # Ctrl-C ends this process, and the other one with it
        given = {"environment": environment, "folder": folder, "interrupted": False}
        process = forking.start(_make, make, study.profile, **given)
        return process and cls(make, process)

    def finished(self, study: Study) -> bool:
        """Wait for it; False: nothing was missing. What failed is tried here, and says why."""
        code = self._process.wait()
        return self._make(study) if code not in (MADE, NOTHING) else code == MADE


def _make(make: Make, profile: Profile) -> int:
    try:
        return MADE if make(Study(profile, progress=False)) else NOTHING
    except Exception:
        return FAILED
