"""Gram matrices of tokens of any size and type, exactly symmetric."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import _BLOCK, _on_device, _tile


@triton.jit
def _rows_kernel(x, y, scale, width, UNIT: tl.constexpr, BLOCK: tl.constexpr):
    """One row: to unit length (UNIT), or scaled by a power of two with 1/length in `scale`."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    values = tl.load(x + row * width + at, mask=at < width, other=0.0).to(tl.float32)
    largest = tl.max(tl.abs(values), axis=0)
    exponent = (largest.to(tl.int32, bitcast=True) >> 23) & 255
    exponent = tl.minimum(tl.maximum(exponent, 1), 252)
    values = values * ((254 - exponent) << 23).to(tl.float32, bitcast=True)
    square = tl.sum(values * values, axis=0)
    # a zero row stays zero
    inverse = 1.0 / tl.sqrt(tl.where(square > 0, square, 1.0))
    if UNIT:
        values = values * inverse
    else:
        tl.store(scale + row, inverse)
    tl.store(y + row * width + at, values.to(y.dtype.element_ty), mask=at < width)


@triton.jit
def _gram_kernel(
    y, scale, out, size, width, UNIT: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr
):
    """One tile of Y Yᵀ and its mirror image."""
    i, j = _tile(tl.program_id(0))
    item = tl.program_id(1).to(tl.int64)
    y += item * size * width
    out += item * size * size
    rows = i * BLOCK + tl.arange(0, BLOCK)
    cols = j * BLOCK + tl.arange(0, BLOCK)
    depth = tl.arange(0, DEPTH)
    left = y + rows[:, None] * width + depth[None, :]
    right = y + cols[:, None] * width + depth[None, :]
    total = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    for start in range(0, width, DEPTH):
        inside = (depth[None, :] + start) < width
        a = tl.load(left + start, mask=(rows[:, None] < size) & inside, other=0.0)
        b = tl.load(right + start, mask=(cols[:, None] < size) & inside, other=0.0)
        if UNIT:
            total += tl.dot(a, tl.trans(b), input_precision="tf32x3")
        else:
            total += tl.dot(a, tl.trans(b))
    if not UNIT:
        left_scale = tl.load(scale + item * size + rows, mask=rows < size, other=0.0)
        right_scale = tl.load(scale + item * size + cols, mask=cols < size, other=0.0)
        total *= left_scale[:, None] * right_scale[None, :]
    if i == j:  # a product may be summed in another order on the other side
        total = 0.5 * (total + tl.trans(total))
    total = tl.where(rows[:, None] == cols[None, :], 1.0, total)
    inside = (rows[:, None] < size) & (cols[None, :] < size)
    tl.store(out + rows[:, None] * size + cols[None, :], total, mask=inside)
    if i != j:
        mirror = (cols[:, None] < size) & (rows[None, :] < size)
        tl.store(out + cols[:, None] * size + rows[None, :], tl.trans(total), mask=mirror)


@triton.jit
def _squares_kernel(x, squares, width, BLOCK: tl.constexpr):
    """The squared length of one row in float64, whatever the range of the row's type."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    values = tl.load(x + row * width + at, mask=at < width, other=0.0).to(tl.float32)
    largest = tl.max(tl.abs(values), axis=0)
    values = values / tl.where(largest > 0, largest, 1.0)
    wide = largest.to(tl.float64)
    tl.store(squares + row, tl.sum(values * values, axis=0).to(tl.float64) * wide * wide)


@triton.jit
def _stretch_kernel(k, lengths, out, size, count, BLOCK: tl.constexpr):
    """Cosines times the lengths of both tokens."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    row = tl.load(lengths + at // size, mask=inside, other=0.0)
    column = at // (size * size) * size + at % size
    column = tl.load(lengths + column, mask=inside, other=0.0)
    tl.store(out + at, tl.load(k + at, mask=inside, other=0.0) * row * column, mask=inside)


@_on_device
def stretched(matrix: Tensor, tokens: Tensor) -> Tensor:
    """Gram matrices (..., N, N) of tokens (..., N, D) as they are, from those of unit tokens.

    In the scale in which the mean of the squared lengths is one.
    """
    lead, (size, width) = tokens.shape[:-2], tokens.shape[-2:]
    tokens, matrix = tokens.detach().contiguous(), matrix.contiguous()
    squares = torch.empty(*lead, size, dtype=torch.float64, device=tokens.device)
    block = triton.next_power_of_2(width)
    _squares_kernel[(squares.numel(),)](
        tokens, squares, width, BLOCK=block, num_warps=4 if block > 512 else 1
    )
    mean = squares.mean(-1, keepdim=True)
    lengths = torch.where(mean > 0, squares / mean, 0).sqrt().float()
    out, count = torch.empty_like(matrix), matrix.numel()
    _stretch_kernel[(triton.cdiv(count, 2048),)](matrix, lengths, out, size, count, BLOCK=2048)
    return out


@_on_device
def gram(tokens: Tensor) -> Tensor:
    """`lib.entropy.gram` of tokens (..., N, D) of type float32, bfloat16 or float16."""
    lead, (size, width) = tokens.shape[:-2], tokens.shape[-2:]
    tokens = tokens.detach().contiguous()
    unit = tokens.dtype == torch.float32
    items = lead.numel()
    scaled = torch.empty_like(tokens)
    scale = torch.empty(items * size, dtype=torch.float32, device=tokens.device)
    block = triton.next_power_of_2(width)
    _rows_kernel[(items * size,)](
        tokens, scaled, scale, width, UNIT=unit, BLOCK=block, num_warps=4 if block > 512 else 1
    )
    out = torch.empty(*lead, size, size, dtype=torch.float32, device=tokens.device)
    tiles = triton.cdiv(size, _BLOCK)
    grid = (tiles * (tiles + 1) // 2, items)
    depth = 32 if unit else 64
    _gram_kernel[grid](
        scaled, scale, out, size, width, UNIT=unit, BLOCK=_BLOCK, DEPTH=depth, num_warps=4
    )
    return out
