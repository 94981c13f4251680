"""How processes that work at once share the cores of this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["THREADS", "cpu_workers", "environment_of_workers", "threads_each"]

#: the variable that numeric libraries read as they load
THREADS = "OMP_NUM_THREADS"


def threads_each(processes: int) -> int:
    """Threads of one of several processes that share the cores."""
    return max(1, (os.cpu_count() or 1) // processes)


def cpu_workers() -> int:
    """Processes that share the images on a CPU, unless a number is given."""
    return min(2, os.cpu_count() or 1)


def environment_of_workers(workers: int) -> Mapping[str, str]:
    """The variables of one of so many processes that share the images."""
    return {**os.environ, THREADS: str(threads_each(workers))}
