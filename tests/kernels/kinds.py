"""Tokens of several characters for the kernels' tests."""

import importlib.util

import pytest
import torch

HAS_GPU = torch.cuda.is_available() and importlib.util.find_spec("triton") is not None
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA device and Triton")


KINDS = ("gaussian", "biased", "themes", "duplicates", "low-rank")


def make(kind, size, width=256, *, items=1, seed=0):
    """Float64 tokens (items, size, width) of a kind."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    noise = normal(items, size, width)
    if kind == "biased":
        return noise + 3 * normal(items, 1, width)
    if kind == "duplicates":
        return noise[:, torch.randint(0, max(1, size // 4), (size,), generator=generator)]
    if kind == "low-rank":
        return noise[..., :20]
    if kind == "themes":
        member = torch.randint(0, 8, (size,), generator=generator)
        return normal(items, 8, width)[:, member] + torch.linspace(0.2, 1.5, size)[:, None] * noise
    return noise
