"""How functions of the library run: in full precision, and with constants kept on the device."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])

_held: dict[int, Any] = {}


def full_precision(function: _Function) -> _Function:
    """Run `function` with autocast off: Gram matrices in half precision lose the entropy.

    >>> with torch.autocast("cpu", dtype=torch.bfloat16):
    ...     full_precision(torch.matmul)(torch.eye(2), torch.eye(2)).dtype
    torch.float32
    """

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with contextlib.ExitStack() as stack:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            return function(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


def constants(function: _Function) -> _Function:
    """Cache the tensors that `function` makes of hashable arguments, and keep them on their device.

    A copy from the host could not be captured in a CUDA graph, and a graph reads its constants at
    every replay: what was used in a capture is never dropped.

    >>> powers = constants(lambda count: 2.0 ** torch.arange(count))
    >>> powers(3) is powers(3)
    True
    """
    # Made outside inference mode, so that the cached tensors serve autograd too.
    cached = functools.lru_cache(maxsize=64)(torch.inference_mode(False)(function))

    @functools.wraps(function)
    def wrapped(*args: Any) -> Any:
        result = cached(*args)
        first = result[0] if isinstance(result, tuple) else result
        if first.is_cuda and torch.cuda.is_current_stream_capturing():
            _held[id(first)] = result
        return result

    return wrapped  # type: ignore[return-value]
