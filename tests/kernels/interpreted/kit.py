"""Whether this process interprets kernels, tokens for them, and the plain code beside them."""

from __future__ import annotations

import importlib
import importlib.util
import os

import pytest
import torch

from lib.kernels import use_kernels

INSIDE = (
    importlib.util.find_spec("triton") is not None and os.environ.get("TRITON_INTERPRET") == "1"
)
interpreted = pytest.mark.skipif(
    not INSIDE, reason="runs in a process of its own: TRITON_INTERPRET=1"
)


def make(kind: str, size: int, *, items: int = 2, width: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    noise = torch.randn(items, size, width, generator=generator)
    if kind == "duplicates":
        return noise[:, torch.randint(0, size // 4, (size,), generator=generator)]
    if kind == "themes":
        member = torch.randint(0, 8, (size,), generator=generator)
        centres = torch.randn(items, 8, width, generator=generator)
        return centres[:, member] + torch.linspace(0.2, 1.5, size)[:, None] * noise
    return noise


def plainly(function):
    with use_kernels(False):
        return function()


def signs(size: int, width: int = 64, items: int = 2) -> torch.Tensor:
    """Tokens of plus and minus one: in powers of two every product and sum is exact."""
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, 2, (items, size, width), generator=generator) * 2.0 - 1


def of_mean_one(tokens: torch.Tensor) -> torch.Tensor:
    """Float64 Gram matrices of tokens as they are, with a diagonal of mean one."""
    matrix = tokens.double() @ tokens.double().mT
    return matrix / matrix.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
