"""Diagonals of the resolvents (K + t I)⁻¹ of Gram matrices, and entropy operators, by a sweep."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import _BLOCK, _on_device, _tile

_BUDGET = 2**28  # floats in the sweep's buffer; larger batches run in chunks

# With D = diag(c + t) and K + t I = D^½ (I + X) D^½, X has a zero diagonal and
#
#     (I + X)⁻¹ = I + G,    G_ii = r_i(t) of lib.entropy.quadrature.
#
# The sweep operator turns X into Y = -G in place, one pivot block after another: with the block's
# Cholesky factor inverted, M = L⁻¹, and U the rest of its columns, W = U Mᵀ, V = W M,
#
#     Y_ij -= W_i W_jᵀ,    Y_ik = V_i,    Y_kk = I - Mᵀ M.
#
# Storing the diagonal less one keeps every digit of a small r_i: it is a sum of positive terms.
# Going through M instead of the block's inverse is what makes this as stable as Cholesky, and no
# pivot falls below the smallest eigenvalue t of K + t I. Only the lower triangle is held.
#
# The operator needs K log K = K - I + Σ_q w_q (K - I)² (K + t_q)⁻¹, and no product of matrices:
#
#     (K - I)² (K + t)⁻¹ = K - I - (1 + t) I + (1 + t)² (K + t)⁻¹,
#
# which on the diagonal is ((c - 1)² + (1 + t)² G_ii) / (c + t), a sum of positive terms, and beside
# it K_ij + (1 + t)² G_ij / √((c_i + t)(c_j + t)).


@triton.jit
def _factor(z, floor, BLOCK: tl.constexpr):
    """Inverse Cholesky factor M of I + z, and the diagonal of I - MᵀM with all its digits.

    `floor` bounds the pivots. In place: columns up to the pivot hold the unit-lower inverse, the
    rest the Schur complement, and the diagonal the pivots less one.
    """
    at = tl.arange(0, BLOCK)
    for p in range(0, BLOCK, 2):  # two pivots at a time: the steps wait for each other
        row = tl.sum(tl.where(at[:, None] == p, z, 0.0), axis=0)
        other = tl.sum(tl.where(at[:, None] == p + 1, z, 0.0), axis=0)
        pivot = tl.maximum(1.0 + tl.sum(tl.where(at == p, row, 0.0), axis=0), floor)
        between = tl.sum(tl.where(at == p + 1, row, 0.0), axis=0)
        corner = tl.sum(tl.where(at == p + 1, other, 0.0), axis=0)
        # by symmetry the column below the pivot is the row beyond it
        factor = tl.where(at > p, row, 0.0) / pivot
        row = tl.where(at == p, 1.0, row)
        between /= pivot
        other = tl.where(at == p, 0.0, other) - between * row
        pivot = tl.maximum(1.0 + corner - between * between * pivot, floor)
        following = tl.where(at > p + 1, other, 0.0) / pivot
        other = tl.where(at == p + 1, 1.0, other)
        z = tl.where((at[:, None] > p) & (at[None, :] == p), 0.0, z)
        z -= factor[:, None] * row[None, :]
        z = tl.where((at[:, None] > p + 1) & (at[None, :] == p + 1), 0.0, z)
        z -= following[:, None] * other[None, :]
    diagonal = at[:, None] == at[None, :]
    less = tl.maximum(tl.sum(tl.where(diagonal, z, 0.0), axis=1), floor - 1.0)
    scale = tl.rsqrt(1.0 + less)
    strict = tl.where(at[:, None] > at[None, :], z, 0.0) * scale[:, None]
    m = tl.where(diagonal, scale[:, None], strict)
    return m, less / (1.0 + less) - tl.sum(strict * strict, axis=0)


@triton.jit
def _start_kernel(k, c, t, y, size, padded, nodes, BLOCK: tl.constexpr):
    """One tile of X for one node."""
    i, j = _tile(tl.program_id(0))
    matrix = tl.program_id(1).to(tl.int64)
    item = matrix // nodes
    shift = tl.load(t + matrix % nodes)
    c += item * size
    rows = i * BLOCK + tl.arange(0, BLOCK)
    cols = j * BLOCK + tl.arange(0, BLOCK)
    inside = (rows[:, None] < size) & (cols[None, :] < size)
    x = tl.load(k + item * size * size + rows[:, None] * size + cols[None, :], inside, other=0.0)
    left = tl.load(c + rows, mask=rows < size, other=1.0) + shift
    right = tl.load(c + cols, mask=cols < size, other=1.0) + shift
    x = x * tl.rsqrt(left)[:, None] * tl.rsqrt(right)[None, :]
    x = tl.where(rows[:, None] == cols[None, :], 0.0, x)
    tl.store(y + matrix * padded * padded + rows[:, None] * padded + cols[None, :], x)


@triton.jit(do_not_specialize=["step"])
def _pivot_kernel(y, m, mt, c, t, size, padded, nodes, step, HALF: tl.constexpr):
    """A pivot block: M and Mᵀ to `m` and `mt`, the swept block in place; by halves."""
    matrix = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, HALF)
    rows = step * 2 * HALF + tl.arange(0, 2 * HALF)
    own = tl.load(c + matrix // nodes * size + rows, mask=rows < size, other=0.0)
    shift = tl.load(t + matrix % nodes)
    floor = shift / (tl.max(own, axis=0) + shift)
    y += matrix * padded * padded + step * 2 * HALF * (padded + 1)
    here = y + at[:, None] * padded + at[None, :]
    below = here + HALF * padded
    beyond = below + HALF
    upper, upper_own = _factor(tl.load(here), floor, HALF)
    w = tl.dot(tl.load(below), tl.trans(upper), input_precision="tf32x3")
    rest = tl.load(beyond) - tl.dot(w, tl.trans(w), input_precision="tf32x3")
    lower, lower_own = _factor(rest, floor, HALF)
    side = -tl.dot(lower, tl.dot(w, upper, input_precision="tf32x3"), input_precision="tf32x3")

    place = matrix * 4 * HALF * HALF + at[:, None] * 2 * HALF + at[None, :]
    zero = tl.zeros((HALF, HALF), dtype=tl.float32)
    tl.store(m + place, upper)
    tl.store(m + place + HALF, zero)
    tl.store(m + place + 2 * HALF * HALF, side)
    tl.store(m + place + 2 * HALF * HALF + HALF, lower)
    tl.store(mt + place, tl.trans(upper))
    tl.store(mt + place + HALF, tl.trans(side))
    tl.store(mt + place + 2 * HALF * HALF, zero)
    tl.store(mt + place + 2 * HALF * HALF + HALF, tl.trans(lower))

    diagonal = at[:, None] == at[None, :]
    first = tl.dot(tl.trans(upper), upper, input_precision="tf32x3")
    first = -tl.dot(tl.trans(side), side, first, input_precision="tf32x3")
    first_own = upper_own - tl.sum(side * side, axis=0)
    cross = -tl.dot(tl.trans(lower), side, input_precision="tf32x3")
    last = -tl.dot(tl.trans(lower), lower, input_precision="tf32x3")
    tl.store(here, tl.where(diagonal, first_own[None, :], first))
    tl.store(below, cross)
    tl.store(here + HALF, tl.trans(cross))
    tl.store(beyond, tl.where(diagonal, lower_own[None, :], last))


@triton.jit(do_not_specialize=["step"])
def _panel_kernel(y, m, mt, w, padded, step, BLOCK: tl.constexpr):
    """The block column of the pivot: W_i to `w`, V_i in place."""
    i = tl.program_id(0)
    i += (i >= step).to(tl.int32)
    matrix = tl.program_id(1).to(tl.int64)
    y += matrix * padded * padded
    at = tl.arange(0, BLOCK)
    place = at[:, None] * BLOCK + at[None, :]
    top, side = tl.maximum(i, step), tl.minimum(i, step)
    here = y + (top * BLOCK + at)[:, None] * padded + (side * BLOCK + at)[None, :]
    u = tl.load(here)
    if i < step:
        u = tl.trans(u)
    factor = tl.load(m + matrix * BLOCK * BLOCK + place)
    half = tl.dot(u, tl.trans(factor), input_precision="tf32x3")
    tl.store(w + matrix * padded * BLOCK + i * BLOCK * BLOCK + place, half)
    factor = tl.load(mt + matrix * BLOCK * BLOCK + place)
    v = tl.dot(half, tl.trans(factor), input_precision="tf32x3")
    if i < step:
        v = tl.trans(v)
    tl.store(here, v)


@triton.jit(do_not_specialize=["step"])
def _update_kernel(y, w, padded, step, BLOCK: tl.constexpr):
    """One tile of Y -= W Wᵀ outside the block row and column of the pivot."""
    i, j = _tile(tl.program_id(0))
    i += (i >= step).to(tl.int32)
    j += (j >= step).to(tl.int32)
    matrix = tl.program_id(1).to(tl.int64)
    at = tl.arange(0, BLOCK)
    place = at[:, None] * BLOCK + at[None, :]
    w += matrix * padded * BLOCK
    here = y + matrix * padded * padded
    here += (i * BLOCK + at)[:, None] * padded + (j * BLOCK + at)[None, :]
    left = tl.load(w + i * BLOCK * BLOCK + place)
    right = tl.load(w + j * BLOCK * BLOCK + place)
    tl.store(here, tl.load(here) - tl.dot(left, tl.trans(right), input_precision="tf32x3"))


@triton.jit
def _operator_kernel(y, k, c, t, weights, out, size, padded, nodes, log_size, BLOCK: tl.constexpr):
    """One tile, and its mirror image, of (K log N - K log K) / N."""
    i, j = _tile(tl.program_id(0))
    item = tl.program_id(1).to(tl.int64)
    rows = i * BLOCK + tl.arange(0, BLOCK)
    cols = j * BLOCK + tl.arange(0, BLOCK)
    left = tl.load(c + item * size + rows, mask=rows < size, other=1.0)
    right = tl.load(c + item * size + cols, mask=cols < size, other=1.0)
    own = rows[:, None] == cols[None, :]
    inside = (rows[:, None] < size) & (cols[None, :] < size)
    k += item * size * size
    value = tl.load(k + rows[:, None] * size + cols[None, :], mask=inside, other=0.0)
    here = y + item * nodes * padded * padded + rows[:, None] * padded + cols[None, :]
    less = (left - 1.0) * (left - 1.0)
    total = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    for q in range(nodes):
        shift = tl.load(t + q)
        swept = tl.load(here)
        across = (1.0 + shift) * tl.rsqrt(left + shift)[:, None]
        swept *= across * ((1.0 + shift) * tl.rsqrt(right + shift)[None, :])
        known = tl.where(own, (less / (left + shift))[:, None], value)
        total += tl.load(weights + q) * (known - swept)
        here += padded * padded
    total = value * (log_size - 1.0) + tl.where(own, 1.0, 0.0) - total
    total /= size
    if i == j:  # a product may be summed in another order on the other side
        total = 0.5 * (total + tl.trans(total))
    out += item * size * size
    tl.store(out + rows[:, None] * size + cols[None, :], total, mask=inside)
    if i != j:
        mirror = (cols[:, None] < size) & (rows[None, :] < size)
        tl.store(out + cols[:, None] * size + rows[None, :], tl.trans(total), mask=mirror)


def _sweep(matrix: Tensor, c: Tensor, t: Tensor) -> Tensor:
    """Y (B, Q, P, P), lower triangle, of Gram matrices (B, N, N) with diagonal c and nodes t."""
    (items, size), nodes = c.shape, len(t)
    tiles = triton.cdiv(size, _BLOCK)
    padded = tiles * _BLOCK
    matrices = items * nodes
    y = matrix.new_empty(items, nodes, padded, padded)
    m, mt = matrix.new_empty(2, matrices, _BLOCK, _BLOCK)
    w = matrix.new_empty(matrices, padded, _BLOCK)
    # One warp is best for many matrices, four for few; the number must not depend on the batch.
    warps = 2
    launch = {"BLOCK": _BLOCK, "num_warps": 4}
    grid = (tiles * (tiles + 1) // 2, matrices)
    _start_kernel[grid](matrix, c, t, y, size, padded, nodes, **launch)
    for step in range(tiles):
        _pivot_kernel[(matrices,)](
            y, m, mt, c, t, size, padded, nodes, step, HALF=_BLOCK // 2, num_warps=warps
        )
        if tiles > 1:
            _panel_kernel[(tiles - 1, matrices)](y, m, mt, w, padded, step, **launch)
            grid = (tiles * (tiles - 1) // 2, matrices)
            _update_kernel[grid](y, w, padded, step, **launch)
    return y


def _chunks(matrix: Tensor, nodes: int) -> tuple[Tensor, Tensor, int]:
    """Matrices flattened to (B, N, N), their diagonals, and how many to sweep at a time."""
    size = matrix.shape[-1]
    flat = matrix.detach().reshape(-1, size, size).contiguous()
    diagonal = flat.diagonal(dim1=-2, dim2=-1).contiguous()
    padded = triton.cdiv(size, _BLOCK) * _BLOCK
    return flat, diagonal, max(1, _BUDGET // (nodes * padded * padded))


@_on_device
def resolvent_diagonal(matrix: Tensor, t: Tensor) -> Tensor:
    """r_i(t) (..., Q, N): (c_i + t) ((K + t I)⁻¹)_ii - 1 without cancellation, K (..., N, N)."""
    size = matrix.shape[-1]
    flat, c, chunk = _chunks(matrix, len(t))
    parts = []
    for start in range(0, len(flat), chunk):
        piece = slice(start, start + chunk)
        y = _sweep(flat[piece], c[piece], t)
        parts.append(-y.diagonal(dim1=-2, dim2=-1)[..., :size])
    r = parts[0] if len(parts) == 1 else torch.cat(parts)
    return r.reshape(*matrix.shape[:-2], len(t), size)


@_on_device
def entropy_operator(matrix: Tensor, t: Tensor, weights: Tensor) -> Tensor:
    """`lib.entropy.entropy_operator` of Gram matrices K (..., N, N) of trace N, exactly symmetric.

    Nodes and weights are those of Σ_q weights_q / (λ + t_q) = (λ log λ - λ + 1) / (λ - 1)².
    """
    size = matrix.shape[-1]
    flat, c, chunk = _chunks(matrix, len(t))
    out = torch.empty_like(flat)
    block = _BLOCK // 2  # many small programs: each waits for one node after another
    tiles = triton.cdiv(size, block)
    for start in range(0, len(flat), chunk):
        piece = slice(start, start + chunk)
        y = _sweep(flat[piece], c[piece], t)
        _operator_kernel[(tiles * (tiles + 1) // 2, len(y))](
            y, flat[piece], c[piece], t, weights, out[piece],
            size, y.shape[-1], len(t), math.log(size), BLOCK=block, num_warps=4,
        )  # fmt: skip
    return out.reshape(matrix.shape)
