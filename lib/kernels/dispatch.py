"""Which implementation a call takes: the Triton kernels, or plain PyTorch."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

MIN_TOKENS = 16
#: labels and distances share 32 bits, and integer sums stay below 2^31
MAX_TOKENS = 4096
#: of what k-means of tokens as they are takes, into MAX_TOKENS clusters: its sums stay below 2^63
MAX_CLUSTERED = 16384

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_devices = ("cuda",)  # the tests add "cpu" under Triton's interpreter
_wanted = True


@dataclass(frozen=True)
class Backend:
    """What one call computes with; true if it has kernels.

    Attributes:
        kernels: the module `lib.kernels.operations`, or None for plain PyTorch.

    >>> bool(Backend()), Backend().kernels
    (False, None)
    """

    kernels: ModuleType | None = None

    def __bool__(self) -> bool:
        return self.kernels is not None

    def of_size(self, size: int) -> Backend:
        """The backend for another number of rows in the same call: M centroids of N tokens."""
        return self if MIN_TOKENS <= size <= MAX_TOKENS else PLAIN


PLAIN = Backend()


@contextlib.contextmanager
def use_kernels(wanted: bool) -> Iterator[None]:
    """Within the block, take the Triton kernels where they apply, or never (`wanted=False`).

    >>> with use_kernels(False):
    ...     bool(backend_for(torch.eye(32)))
    False
    """
    global _wanted
    before, _wanted = _wanted, wanted
    try:
        yield
    finally:
        _wanted = before


def backend_for(*tensors: Tensor, most: int = MAX_TOKENS) -> Backend:
    """The backend that serves all of `tensors` (..., N, any); to be asked once in a call.

    The kernels need CUDA of compute capability 8.0 or more, Triton, at most float32,
    16 <= N <= `most` and no gradient. What is no such tensor is left to the plain route, which says
    what is wrong with it.

    >>> bool(backend_for(torch.eye(32)))  # not on a CUDA device
    False
    """
    if not _wanted or not all(_suits(tensor, most) for tensor in tensors):
        return PLAIN
    if not all(_capable(tensor.device) for tensor in tensors):
        return PLAIN
    return Backend(_operations())


def _suits(tensor: Tensor, most: int) -> bool:
    if not isinstance(tensor, Tensor) or tensor.device.type not in _devices:
        return False
    if tensor.ndim < 2 or tensor.dtype not in _DTYPES or not tensor.numel():
        return False
    if torch.is_grad_enabled() and tensor.requires_grad:
        return False
    return MIN_TOKENS <= tensor.shape[-2] <= most


@functools.cache
def _capable(device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


@functools.cache
def _operations() -> ModuleType | None:
    try:
        from . import operations  # Triton is optional
    except ImportError:
        return None
    return operations
