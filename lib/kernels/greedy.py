"""Greedy forward selection, one launch a pick.

Every program finds the pick in the gains of all tokens, then brings its own rows up to date and
computes their next gains. What a launch reads of other rows and what it writes lie in different
buffers, which swap roles from launch to launch.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import _GRID, _on_device


@triton.jit(do_not_specialize=["step"])
def _pick_kernel(
    k, t, w, cover, factor,
    gains, taken, pivots, covered, new_gains, new_taken, new_pivots, new_covered,
    size, nodes, picks, step,
    COVER: tl.constexpr, BLOCK: tl.constexpr, NODES: tl.constexpr, ROWS: tl.constexpr,
    DEPTH: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """`lib.selection._forward`: pick token number `step` (from 1), and the gains of the next."""
    item = tl.program_id(1).to(tl.int64)
    k += item * size * size
    factor += item * nodes * size * picks
    pivots += item * nodes * size
    new_pivots += item * nodes * size
    at = tl.arange(0, BLOCK)
    inside = at < size
    # the first of those that nearly tie with the largest gain, as in `lib.selection._best`
    gain = tl.load(gains + item * size + at, mask=inside, other=0.0)
    free = inside & (tl.load(taken + item * size + at, mask=inside, other=1) == 0)
    high = tl.max(tl.where(free, gain, -float("inf")), axis=0)
    low = tl.min(tl.where(free, gain, float("inf")), axis=0)
    span = tl.maximum(high - low, 1e-6 * tl.abs(high))
    ties = free & (gain >= high - 0.5 / _GRID * span)
    pick = tl.min(tl.where(ties, at, size - 1), axis=0)

    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    here = rows < size
    before = tl.load(taken + item * size + rows, mask=here, other=1)
    tl.store(new_taken + item * size + rows, tl.where(rows == pick, 1, before), mask=here)
    if step < picks:  # else there is nothing more to pick
        node = tl.arange(0, NODES)
        real = node < nodes
        depth = tl.arange(0, DEPTH)
        products = tl.zeros((NODES, ROWS, DEPTH), dtype=tl.float32)
        for start in range(0, step - 1, DEPTH):
            columns = start + depth
            there = columns < step - 1
            place = factor + (node * size + pick)[:, None] * picks + columns[None, :]
            own = tl.load(place, mask=real[:, None] & there[None, :], other=0.0)
            place = (node[:, None] * size + rows[None, :])[:, :, None] * picks
            place = factor + place + columns[None, None, :]
            known = (real[:, None] & here[None, :])[:, :, None] & there[None, None, :]
            products += own[:, None, :] * tl.load(place, mask=known, other=0.0)
        row = tl.load(k + pick * size + rows, mask=here, other=0.0)
        pivot = tl.load(pivots + node * size + pick, mask=real, other=1.0)
        new = (row[None, :] - tl.sum(products, axis=2)) * tl.rsqrt(pivot)[:, None]
        place = node[:, None] * size + rows[None, :]
        known = real[:, None] & here[None, :]
        tl.store(factor + place * picks + step - 1, new, mask=known)
        # no eigenvalue of K_S + t is below t, so no pivot is
        shift = tl.load(t + node, mask=real, other=1.0)
        left = tl.load(pivots + place, mask=known, other=1.0) - new * new
        left = tl.maximum(left, shift[:, None])
        tl.store(new_pivots + place, left, mask=known)
        diagonal = tl.load(k + rows * (size + 1), mask=here, other=1.0)
        share = tl.where(known, left / (diagonal[None, :] + shift[:, None]), 1.0)
        weight = tl.load(w + node, mask=real, other=0.0)
        following = tl.sum(weight[:, None] * tl.log(share), axis=0)
        if COVER:
            uncovered = tl.zeros((ROWS, COLS), dtype=tl.float32)
            for start in range(0, size, COLS):
                cols = start + tl.arange(0, COLS)
                most = tl.load(covered + item * size + cols, mask=cols < size, other=0.0)
                most = tl.maximum(
                    most, tl.load(k + pick * size + cols, mask=cols < size, other=0.0)
                )
                block = here[:, None] & (cols < size)[None, :]
                values = tl.load(k + rows[:, None] * size + cols[None, :], mask=block, other=0.0)
                uncovered += tl.maximum(values - most[None, :], 0.0)
            following += tl.load(cover + item) * tl.sum(uncovered, axis=1)
            old = tl.load(covered + item * size + rows, mask=here, other=0.0)
            tl.store(new_covered + item * size + rows, tl.maximum(old, row), mask=here)
        tl.store(new_gains + item * size + rows, following, mask=here)


@_on_device
def forward(matrix: Tensor, k: int, t: Tensor, w: Tensor, cover: Tensor | None) -> Tensor:
    """`lib.selection._forward`: mask (B, N) of k tokens of Gram matrices (B, N, N), t, w (Q,)."""
    items, size, _ = matrix.shape
    nodes = len(t)
    matrix = matrix.contiguous()
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    empty = functools.partial(torch.empty, dtype=torch.float32, device=matrix.device)
    factor = empty(items, nodes, size, k)
    pivots = [(diagonal.unsqueeze(1) + t.unsqueeze(-1)).contiguous(), empty(items, nodes, size)]
    taken = torch.zeros(2, items, size, dtype=torch.int8, device=matrix.device)
    covered = torch.zeros(2, items, size, dtype=torch.float32, device=matrix.device)
    if cover is None:
        first = -matrix.square().sum(-1)
    else:
        cover = cover.reshape(items).contiguous()
        first = cover.unsqueeze(-1) * matrix.clamp_min(0).sum(-1)
    gains = [first, torch.empty_like(first)]
    padded = triton.next_power_of_2(nodes)
    grid = (triton.cdiv(size, 16), items)
    for step in range(1, k + 1):
        now, then = (step - 1) % 2, step % 2
        _pick_kernel[grid](
            matrix, t, w, matrix if cover is None else cover, factor,
            gains[now], taken[now], pivots[now], covered[now],
            gains[then], taken[then], pivots[then], covered[then],
            size, nodes, k, step,
            COVER=cover is not None, BLOCK=triton.next_power_of_2(size), NODES=padded, ROWS=16,
            DEPTH=min(128, max(16, 512 // padded)), COLS=128, num_warps=8,
        )  # fmt: skip
    return taken[k % 2].view(torch.bool)
