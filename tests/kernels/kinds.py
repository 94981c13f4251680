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


def regret(parts, order):
    """How far the worst of the picks (B, k) was from the best gain of its step, in shares of range.

    parts: terms of `lib.selection.terms` in float64, nothing picked yet.
    """
    worst, taken = 0.0, torch.zeros_like(parts[0].gains(), dtype=torch.bool)
    for pick in order.T:
        gains = sum(part.gains() for part in parts)
        high = gains.masked_fill(taken, -torch.inf).amax(-1)
        low = gains.masked_fill(taken, torch.inf).amin(-1)
        own = gains.gather(1, pick[:, None]).squeeze(1)
        span = torch.maximum(high - low, 1e-6 * high.abs())
        worst = max(worst, ((high - own) / span).max().item())
        taken.scatter_(1, pick[:, None], True)
        for part in parts:
            part.add(pick)
    return worst
