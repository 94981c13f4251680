"""Gram matrices of tokens of any size and type, exactly symmetric."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import _BLOCK, _on_device, _tile
from .dispatch import MAX_TOKENS


@triton.jit
def _rows_kernel(
    x, y, scale, squares, width, UNIT: tl.constexpr, RAW: tl.constexpr, BLOCK: tl.constexpr
):
    """One row: to unit length (UNIT), or scaled by a power of two with 1/length in `scale`.

    RAW: its squared length goes to `squares` in float64, whatever the range of the row's type.
    """
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
    if RAW:
        wide = (exponent << 23).to(tl.float32, bitcast=True).to(tl.float64)
        tl.store(squares + row, square.to(tl.float64) * wide * wide)
    tl.store(y + row * width + at, values.to(y.dtype.element_ty), mask=at < width)


@triton.jit
def _lengths(squares, rows, size, TOKENS: tl.constexpr):
    """Lengths of an item's rows, in the scale in which the mean of all squared ones is one."""
    total = tl.zeros((TOKENS,), dtype=tl.float64)
    for start in range(0, size, TOKENS):
        at = start + tl.arange(0, TOKENS)
        total += tl.load(squares + at, mask=at < size, other=0.0)
    mean = tl.sum(total, axis=0) / size
    square = tl.load(squares + rows, mask=rows < size, other=0.0)
    return tl.sqrt(square / tl.where(mean > 0, mean, 1.0)).to(tl.float32)


@triton.jit
def _gram_kernel(
    y, scale, squares, out, size, width,
    UNIT: tl.constexpr, RAW: tl.constexpr, TOKENS: tl.constexpr,
    BLOCK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One tile of Y Yᵀ and its mirror image; RAW: times the lengths of both tokens."""
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
    if RAW:
        squares += item * size
        length = _lengths(squares, cols, size, TOKENS)
        total *= _lengths(squares, rows, size, TOKENS)[:, None] * length[None, :]
    inside = (rows[:, None] < size) & (cols[None, :] < size)
    tl.store(out + rows[:, None] * size + cols[None, :], total, mask=inside)
    if i != j:
        mirror = (cols[:, None] < size) & (rows[None, :] < size)
        tl.store(out + cols[:, None] * size + rows[None, :], tl.trans(total), mask=mirror)


@_on_device
def gram(tokens: Tensor, *, raw: bool = False) -> Tensor:
    """`lib.entropy.gram` of tokens (..., N, D) of type float32, bfloat16 or float16.

    With `raw` of the tokens as they are, in the scale in which the mean of the squared lengths is
    one.
    """
    lead, (size, width) = tokens.shape[:-2], tokens.shape[-2:]
    tokens = tokens.detach().contiguous()
    unit = tokens.dtype == torch.float32
    items = lead.numel()
    scaled = torch.empty_like(tokens)
    scale = torch.empty(items * size, dtype=torch.float32, device=tokens.device)
    squares = torch.empty(items * size, dtype=torch.float64, device=tokens.device)
    block = triton.next_power_of_2(width)
    launch = {"UNIT": unit, "RAW": raw}
    _rows_kernel[(items * size,)](
        tokens, scaled, scale, squares, width,
        BLOCK=block, num_warps=4 if block > 512 else 1, **launch,
    )  # fmt: skip
    out = torch.empty(*lead, size, size, dtype=torch.float32, device=tokens.device)
    tiles = triton.cdiv(size, _BLOCK)
    grid = (tiles * (tiles + 1) // 2, items)
    depth = 32 if unit else 64
    _gram_kernel[grid](
        scaled, scale, squares, out, size, width,
        TOKENS=min(triton.next_power_of_2(size), MAX_TOKENS), BLOCK=_BLOCK, DEPTH=depth,
        num_warps=4, **launch,
    )  # fmt: skip
    return out
