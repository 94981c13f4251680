"""Greedy rules whose gains change by one row a pick: all picks of an item in one program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import _on_device
from .greedy import _best


@triton.jit(do_not_specialize=["picks"])
def _farthest_kernel(distances, nearest, order, size, picks, BLOCK: tl.constexpr):
    """Each pick is the farthest from those before it, the first the farthest from its nearest."""
    item = tl.program_id(0).to(tl.int64)
    distances += item * size * size
    at = tl.arange(0, BLOCK)
    inside = at < size
    gain = tl.load(nearest + item * size + at, mask=inside, other=0.0)
    spread = tl.full((BLOCK,), float("inf"), dtype=tl.float32)
    free = inside
    for step in range(0, picks):
        pick = _best(gain, free, at, size)
        tl.store(order + item * picks + step, pick)
        free = free & (at != pick)
        spread = tl.minimum(spread, tl.load(distances + pick * size + at, mask=inside, other=0.0))
        gain = spread


@_on_device
def farthest(distances: Tensor, nearest: Tensor, k: int) -> Tensor:
    """`lib.selection.farthest_points`: picks (B, k) of distances (B, N, N) and the first gains."""
    items, size, _ = distances.shape
    order = torch.empty(items, k, dtype=torch.int64, device=distances.device)
    block = triton.next_power_of_2(size)
    _farthest_kernel[(items,)](
        distances.contiguous(), nearest.contiguous(), order, size, k,
        BLOCK=block, num_warps=max(1, min(8, block // 128)),
    )  # fmt: skip
    return order


@triton.jit(do_not_specialize=["picks"])
def _volume_kernel(
    matrix, least, factor, order, size, picks, BLOCK: tl.constexpr, DEPTH: tl.constexpr
):
    """Each pick has the most left, orthogonal to those before it: a Cholesky factor, row by row."""
    item = tl.program_id(0).to(tl.int64)
    matrix += item * size * size
    factor += item * picks * size
    at = tl.arange(0, BLOCK)
    inside = at < size
    depth = tl.arange(0, DEPTH)
    left = tl.load(matrix + at * (size + 1), mask=inside, other=0.0)
    floor = tl.load(least + item * size + at, mask=inside, other=0.0)
    free = inside
    for step in range(0, picks):
        pick = _best(left, free, at, size)
        tl.store(order + item * picks + step, pick)
        free = free & (at != pick)
        product = tl.zeros((BLOCK,), dtype=tl.float64)
        for start in range(0, step, DEPTH):
            done = start + depth
            known = done < step
            own = tl.load(factor + done * size + pick, mask=known, other=0.0)
            place = factor + done[:, None] * size + at[None, :]
            block = tl.load(place, mask=known[:, None] & inside[None, :], other=0.0)
            product += tl.sum(own[:, None] * block, axis=0)
        row = tl.load(matrix + pick * size + at, mask=inside, other=0.0)
        pivot = tl.sum(tl.where(at == pick, left, 0.0), axis=0)
        # a token of no quality has nothing left, and nothing in common with others
        new = tl.where(pivot > 0, (row - product) / tl.sqrt(tl.where(pivot > 0, pivot, 1.0)), 0.0)
        tl.store(factor + step * size + at, new, mask=inside)
        tl.debug_barrier()  # other threads of this program read it
        left = tl.maximum(left - new * new, floor)


@_on_device
def volume(matrix: Tensor, least: Tensor, k: int) -> Tensor:
    """`lib.selection.conditional_dpp`: picks (B, k) of float64 kernels (B, N, N), least (B, N)."""
    items, size, _ = matrix.shape
    order = torch.empty(items, k, dtype=torch.int64, device=matrix.device)
    factor = matrix.new_empty(items, k, size)
    _volume_kernel[(items,)](
        matrix.contiguous(), least.contiguous(), factor, order, size, k,
        BLOCK=triton.next_power_of_2(size), DEPTH=16, num_warps=8,
    )  # fmt: skip
    return order
