"""Several processes do a share of the images each, started as accelerate would start them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .. import forking, paths
from ..cores import cpu_workers, environment_of_workers, threads_each
from ..profiles import Profile
from .study import Study, threads

__all__ = [
    "WHOLE",
    "WORTH_SHARING",
    "complete",
    "default_workers",
    "share",
    "suited",
    "together",
    "turn",
]

#: the variable that keeps a profile whole on a CPU
WHOLE = "ENTROPY_PRUNE_WHOLE"
#: images times methods below which one process is as fast as several
WORTH_SHARING = 200


def complete(study: Study, todo: Sequence[Any], *, stage: str, table: bool = False) -> bool:
    """Do what is missing of some jobs, with other processes if it is worth it; False: nothing was.

    stage, table: see `together`.
    """
    missing = sum(job.missing for job in todo)
    if study.workers > 1 and missing > WORTH_SHARING:
        together(study, todo, stage=stage, table=table)
    for job in todo:
        job.run(study)
    return missing > 0


def share(study: Study, todo: Sequence[Any]) -> None:
    """What a launched process does of some jobs: its share by its environment, nothing else."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    for number, job in enumerate(todo):
        job.run(study, **turn(number, rank, world_size))


def together(study: Study, todo: Sequence[Any], *, stage: str, table: bool = False) -> None:
    """This process and others do a share each; batches are the same as those of one process.

    On GPUs each takes the next one after this one's. stage: what the others do; `todo` is this
    process's. table: only Table 1's first part.
    """
    device, workers = study.loaded.model.device, study.workers
    options = ["--stages", stage, *["--table"] * table]
    running = [_start(study, rank, device, options) for rank in range(1, workers)]
    try:
        with threads(device, threads_each(workers)):
            for number, job in enumerate(todo):
                job.run(study, **turn(number, 0, workers))
        failed = [process.wait() for process in running]
    finally:
        for process in running:
            process.kill()
    if any(failed):
        raise RuntimeError(
            "another process stopped (its message is above). All records are kept: run the "
            "same command again to continue."
        )


def turn(number: int, rank: int, world_size: int) -> dict[str, int]:
    """Which rank a process is in the job of this number: another one each time.

    Batches may not divide evenly; so nobody gets the larger share of every job.

    >>> [turn(number, 0, 2)["rank"] for number in range(3)]
    [0, 1, 0]
    """
    return {"rank": (rank + number) % world_size, "world_size": world_size}


def _start(study: Study, rank: int, device: torch.device, options: Sequence[str]) -> Any:
    arguments = ["study", "--profile", study.profile.profile]
    arguments += [] if device.type == "cuda" else ["--device", str(device)]
    arguments += [*options, *["--quiet"] * (not study.progress)]
    gpu = ((device.index or 0) + rank) % max(torch.cuda.device_count(), 1)
    environment = environment_of_workers(study.workers) | {
        "WORLD_SIZE": str(study.workers),
        "RANK": str(rank),
        "LOCAL_RANK": str(gpu),
        "ENTROPY_PRUNE_ROOT": str(paths.ROOT),
    }
    folder = Path(__file__).parents[3]
    forked = forking.start(forking.command, arguments, environment=environment, folder=folder)
    command = [sys.executable, "-m", "lib", *arguments]
    return forked or subprocess.Popen(command, env=environment, cwd=folder)


def default_workers(profile: Profile, device: str | None) -> int:
    """Two on a CPU; on GPUs one each, unless one is named or the model is spread over them."""
    if not _on_gpu(device):
        return cpu_workers()
    alone = profile.device_map is not None or device not in (None, "cuda")
    return 1 if alone else max(1, torch.cuda.device_count())


def suited(profile: Profile, device: str | None) -> Profile:
    """The profile as it is on this machine: smaller without a GPU, where it says so.

    The environment variable `ENTROPY_PRUNE_WHOLE` keeps it whole, here and in the processes that
    share the work.
    """
    return profile if _on_gpu(device) or os.environ.get(WHOLE) else profile.on_cpu()


def _on_gpu(device: str | None) -> bool:
    here = torch.cuda.is_available() and torch.cuda.device_count() > 0
    return here if device is None else not device.startswith("cpu")
