"""Greedy forward selection, one launch a pick.

Every program finds the pick in the gains of all tokens, then brings its own rows up to date and
computes their next gains. What a launch reads of other rows and what it writes lie in different
buffers, which swap roles from launch to launch. Where all programs of an item can be at work at
once, `lib.kernels.blocks` does the same in blocks of picks; rules that need one row a pick fit into
one program an item, see `lib.kernels.picks`.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from .blocks import Choice, in_blocks
from .common import _first_tie, _on_device

#: numbers of a table that a program holds at once
_HELD = 16384


@triton.jit
def _best(gain, free, at, size):
    """The pick: the first of the largest gains of what is free."""
    high = tl.max(tl.where(free, gain, -float("inf")), axis=0)
    low = tl.min(tl.where(free, gain, float("inf")), axis=0)
    return _first_tie(gain, free, high, low, at, size)


@triton.jit(do_not_specialize=["step"])
def _pick_kernel(
    matrix, t, w, factor, own, table, scale, order,
    gains, taken, pivots, covered, new_gains, new_taken, new_pivots, new_covered,
    size, width, nodes, stride, picks, step,
    SPECTRAL: tl.constexpr, COVER: tl.constexpr, OVERLAP: tl.constexpr,
    BLOCK: tl.constexpr, NODES: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr,
    COLS: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Pick token number `step` (from 1), and compute the gains of the next."""
    item = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    here = rows < size
    cols = tl.arange(0, COLS)
    table += item * size * width
    covered += item * width
    if COVER and WHOLE:  # on its way while the pick is looked for
        values = tl.load(
            table + rows[:, None] * width + cols[None, :],
            mask=here[:, None] & (cols < width)[None, :],
            other=0.0,
        )
    else:
        values = tl.zeros((ROWS, 1), dtype=tl.float32)  # read in parts, or not at all
    if OVERLAP:  # what follows was written by the launch before, which may not have ended
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    at = tl.arange(0, BLOCK)
    inside = at < size
    gain = tl.load(gains + item * size + at, mask=inside, other=0.0)
    free = inside & (tl.load(taken + item * size + at, mask=inside, other=1) == 0)
    pick = _best(gain, free, at, size)
    if tl.program_id(0) == 0:
        tl.store(order + item * picks + step - 1, pick)
    before = tl.load(taken + item * size + rows, mask=here, other=1)
    tl.store(new_taken + item * size + rows, tl.where(rows == pick, 1, before), mask=here)
    if step < picks:  # else there is nothing more to pick
        following = tl.load(own + item * size + rows, mask=here, other=0.0)
        if SPECTRAL:
            matrix += item * size * size
            factor += item * nodes * size * stride
            pivots += item * nodes * size
            new_pivots += item * nodes * size
            node = tl.arange(0, NODES)
            real = node < nodes
            # A mask along the depth would load number by number. Beyond, its own rows are zero, so
            # that what another program writes there of the pick counts nothing.
            products = tl.zeros((NODES, ROWS, DEPTH), dtype=tl.float32)
            theirs = factor + ((node * size + pick) * stride)[:, None]
            mine = factor + ((node[:, None] * size + rows[None, :]) * stride)[:, :, None]
            known = real[:, None] & here[None, :]
            for start in range(0, step - 1, DEPTH):
                depth = start + tl.arange(0, DEPTH)
                left = tl.load(theirs + depth[None, :], mask=real[:, None], other=0.0)
                right = tl.load(mine + depth[None, None, :], mask=known[:, :, None], other=0.0)
                products += left[:, None, :] * right
            row = tl.load(matrix + pick * size + rows, mask=here, other=0.0)
            pivot = tl.load(pivots + node * size + pick, mask=real, other=1.0)
            new = (row[None, :] - tl.sum(products, axis=2)) * tl.rsqrt(pivot)[:, None]
            place = node[:, None] * size + rows[None, :]
            tl.store(factor + place * stride + step - 1, new, mask=known)
            # no eigenvalue of K_S + t is below t, so no pivot is
            shift = tl.load(t + node, mask=real, other=1.0)
            rest = tl.load(pivots + place, mask=known, other=1.0) - new * new
            rest = tl.maximum(rest, shift[:, None])
            tl.store(new_pivots + place, rest, mask=known)
            diagonal = tl.load(matrix + rows * (size + 1), mask=here, other=1.0)
            # exactly one where nothing is explained: the outermost weight is some 10^7
            whole = tl.where(known, diagonal[None, :] + shift[:, None], 1.0)
            share = tl.where(known, tl.div_rn(rest, whole), 1.0)
            weight = tl.load(w + node, mask=real, other=0.0)
            following += tl.sum(weight[:, None] * tl.log(share), axis=0)
        if COVER:
            picked = table + pick * width
            if WHOLE:
                most = tl.load(covered + cols, mask=cols < width, other=0.0)
                most = tl.maximum(most, tl.load(picked + cols, mask=cols < width, other=0.0))
                uncovered = tl.sum(tl.maximum(values - most[None, :], 0.0), axis=1)
            else:
                missing = tl.zeros((ROWS, COLS), dtype=tl.float32)
                for start in range(0, width, COLS):
                    part = start + cols
                    most = tl.load(covered + part, mask=part < width, other=0.0)
                    most = tl.maximum(most, tl.load(picked + part, mask=part < width, other=0.0))
                    block = tl.load(
                        table + rows[:, None] * width + part[None, :],
                        mask=here[:, None] & (part < width)[None, :],
                        other=0.0,
                    )
                    missing += tl.maximum(block - most[None, :], 0.0)
                uncovered = tl.sum(missing, axis=1)
            following += tl.load(scale + item * size + rows, mask=here, other=0.0) * uncovered
            mine = rows < width
            old = tl.load(covered + rows, mask=mine, other=0.0)
            added = tl.load(picked + rows, mask=mine, other=0.0)
            tl.store(new_covered + item * width + rows, tl.maximum(old, added), mask=mine)
        tl.store(new_gains + item * size + rows, following, mask=here)


def _shape(nodes: int) -> tuple[int, int, int]:
    """Rows and picks that a program looks at at once, and its warps.

    The same for every batch: an item's sums are taken in one order, whatever is beside it.
    """
    return (8, 64, 4) if nodes == 1 else (2, 64, 4)


def _overlap(device: torch.device) -> bool:
    """True where a launch may start while the one before it ends (Hopper and later)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


@_on_device
def forward(
    first: Tensor,
    k: int,
    *,
    spectral: tuple[Tensor, Tensor, Tensor] | None = None,
    own: Tensor | None = None,
    cover: tuple[Tensor, Tensor | None] | None = None,
    priority: Tensor | None = None,
    ahead: int = 0,
) -> Tensor:
    """Greedy picks (B, k) int64 in order, of B items of N tokens, by the sum of what is given.

    first: gains (B, N) before anything is picked. spectral: Gram matrices (B, N, N), shifts t (Q,)
    and weights w (Q,), for Σ_q w log u as in `lib.selection.greedy`. own: (B, N), added to it.
    cover: a table (B, N, M) and a factor (B, N) or None, for factor · Σ_m max(0, table - covered).
    The first `ahead` picks are the largest of `priority` (B, N).
    """
    items, size = first.shape
    matrix, t, w = spectral or (first, first, first)
    table, scale = cover or (first, None)
    nodes, width = (len(t) if spectral else 1), (table.shape[-1] if cover else 1)
    empty = functools.partial(torch.empty, dtype=torch.float32, device=first.device)
    matrix, table = matrix.contiguous(), table.contiguous()
    own = torch.zeros_like(first) if own is None else own.contiguous()
    scale = torch.ones_like(first) if scale is None else scale.contiguous()
    choice = Choice(
        first.contiguous(), own, first if priority is None else priority.contiguous(),
        matrix if spectral else None, table if cover else None, scale if cover else None,
        (t, w) if spectral else None, ahead,
    )  # fmt: skip
    if (picks := in_blocks(choice, k)) is not None:
        return picks
    taken = torch.zeros(2, items, size, dtype=torch.int8, device=first.device)
    covered = torch.zeros(2, items, width, dtype=torch.float32, device=first.device)
    factor, pivots = first, [first, first]
    padded = triton.next_power_of_2(nodes)
    rows, depth, warps = _shape(padded)
    stride = triton.cdiv(k, depth) * depth
    if spectral:
        factor = torch.zeros(items, nodes, size, stride, dtype=torch.float32, device=first.device)
        diagonal = matrix.diagonal(dim1=-2, dim2=-1)
        pivots = [diagonal.unsqueeze(1) + t.unsqueeze(-1), empty(items, nodes, size)]
        pivots[0] = pivots[0].contiguous()
    gains = [first.contiguous(), empty(items, size)]
    order = torch.empty(items, k, dtype=torch.int64, device=first.device)
    held = min(triton.next_power_of_2(width), _HELD // rows)
    grid = (triton.cdiv(max(size, width), rows), items)
    overlap = _overlap(first.device)
    for step in range(1, k + 1):
        # the first reads what other kernels wrote before it waits
        after = (
            {"OVERLAP": True, "launch_pdl": True} if overlap and step > 1 else {"OVERLAP": False}
        )
        now, then = (step - 1) % 2, step % 2
        _pick_kernel[grid](
            matrix, t, w, factor, own, table, scale, order,
            priority if step <= ahead else gains[now],
            taken[now], pivots[now], covered[now],
            gains[then], taken[then], pivots[then], covered[then],
            size, width, nodes, stride, k, step,
            SPECTRAL=spectral is not None, COVER=cover is not None,
            BLOCK=triton.next_power_of_2(size), NODES=padded, ROWS=rows,
            DEPTH=depth, COLS=held, WHOLE=held >= width, num_warps=warps, **after,
        )  # fmt: skip
    return order
