"""What the kernels share: launches, rounding, tiles."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 64  # order of the tiles of a Gram matrix and of the pivot blocks of the sweep
_GRID = tl.constexpr(65536.0)
_MAGIC = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it rounds half to even, as torch.round does

_FIRST = -3  # the highest priority that PyTorch gives a stream

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _on_device(function: _Function) -> _Function:
    """Launch on the device of the first argument, whichever is the current one."""

    @functools.wraps(function)
    def wrapped(first: Tensor, *args: Any, **kwargs: Any) -> Any:
        with torch.cuda.device_of(first):
            return function(first, *args, **kwargs)

    return wrapped  # type: ignore[return-value]


def _room(warps: int, registers: int, shared: int, device: torch.device) -> int:
    """How many programs of so many bytes of shared memory the device holds at once."""
    cores = torch.cuda.get_device_properties(device)
    fit = cores.shared_memory_per_multiprocessor // (shared + 1024)  # of which CUDA takes 1024
    return cores.multi_processor_count * min(65536 // (registers * 32 * warps), fit)


@contextmanager
def _at_once(device: torch.device) -> Iterator[None]:
    """Launch programs that wait for each other before what other streams of a captured graph hold.

    While the last of them has no room yet, the others wait on their cores, and hold up whatever
    else would run there.
    """
    if device.type != "cuda" or not torch.cuda.is_current_stream_capturing():
        yield
        return
    current, first = torch.cuda.current_stream(), torch.cuda.Stream(priority=_FIRST)
    first.wait_stream(current)
    try:
        with torch.cuda.stream(first):
            yield
    finally:  # a stream that is not joined would hide why a launch failed
        current.wait_stream(first)


@triton.jit
def _round(x):
    """Round to the nearest integer, ties to even; |x| < 2^22."""
    return (x + _MAGIC) - _MAGIC


@triton.jit
def _first_tie(gain, free, high, low, at, size):
    """The first of those that nearly tie with the largest gain, as in `lib.selection.best`."""
    span = tl.maximum(high - low, 1e-6 * tl.abs(high))
    ties = free & (gain >= high - 0.5 / _GRID * span)
    return tl.min(tl.where(ties, at, size - 1), axis=0)


@triton.jit
def _tile(index):
    """The tile (i, j), i >= j, with number `index` in the order (0,0) (1,0) (1,1) (2,0) ..."""
    i = ((tl.sqrt(8.0 * index.to(tl.float32) + 1.0) - 1.0) * 0.5).to(tl.int32)
    i = tl.where((i + 1) * (i + 2) // 2 <= index, i + 1, i)
    i = tl.where(i * (i + 1) // 2 > index, i - 1, i)
    return i, index - i * (i + 1) // 2
