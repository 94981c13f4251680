"""Several processes share the work: who this one is, what it does, where it runs."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import distributed as dist

from .record import Batch


def place(rank: int | None = None, world_size: int | None = None) -> tuple[int, int]:
    """Rank and number of processes: those given, torch.distributed's, or the launcher's."""
    if (rank is None) != (world_size is None):
        raise ValueError("give both rank and world_size, or neither")
    if rank is None:
        if dist.is_available() and dist.is_initialized():
            rank, world_size = dist.get_rank(), dist.get_world_size()
        else:
            rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in 0..{world_size - 1}, got {rank}")
    return rank, world_size


def own_gpu() -> str | None:
    """The GPU of a launched process (LOCAL_RANK's), made the current one; None without GPUs."""
    if not torch.cuda.is_available():
        return None
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    torch.cuda.set_device(device)
    return device


@contextmanager
def process_group(world_size: int) -> Iterator[None]:
    """Several launched processes hear of each other inside the block; one stays alone.

    gloo: they exchange only lists of batch numbers, and it works with and without GPUs.
    """
    if world_size > 1:
        dist.init_process_group("gloo", timeout=datetime.timedelta(days=1))
    try:
        yield
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


def together() -> bool:
    """Whether the processes of this run hear of each other."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def wait_for_all() -> None:
    """Until every process has come this far.

    Raises RuntimeError if one of them never will.
    """
    try:
        dist.barrier()
    except RuntimeError as error:
        raise RuntimeError(
            "another process of this run stopped before it was done. All records are kept: run "
            "the same command again to do what is missing."
        ) from error


def share(
    pending: Sequence[Batch], batches: Sequence[Batch], rank: int, world_size: int
) -> Sequence[Batch]:
    """The batches this rank does: every world_size-th.

    Ranks start at different moments and would see different batches missing, so without a process
    group they count over all batches; with one, rank 0's view is dealt out evenly.
    """
    if world_size == 1:
        return pending
    wanted = {id(batch) for batch in pending}
    numbers = [number for number, batch in enumerate(batches) if id(batch) in wanted]
    if together() and dist.get_world_size() == world_size:
        plan = [numbers]
        dist.broadcast_object_list(plan, src=0)
        return [batches[number] for number in plan[0][rank::world_size]]
    return [batches[number] for number in numbers if number % world_size == rank]


def gather(mine: object, world_size: int) -> list[object]:
    """What every process of the group gives, in order of their ranks, on all of them."""
    gathered: list[object] = [None] * world_size
    dist.all_gather_object(gathered, mine)
    return gathered
