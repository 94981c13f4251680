"""Triton kernels for the scorers on a CUDA device: Gram matrices, resolvents, k-means, selections.

Nothing here defines a result. Every function computes what a plain PyTorch function of
`lib.entropy`, `lib.clustering` or `lib.selection` computes, which stays the reference, the route on
a CPU and the fallback; those modules import this one lazily (`lib.entropy.fast`). All shapes are
static, nothing waits for the host, and an item's result does not depend on the rest of its batch.

Float32 only. Matrix products run on the tensor cores: half-precision tokens as they are (their
products are exact in float32), float32 as three TF32 products, indicators with the other factor in
two float16 parts (22 bits of a number up to one) or three of bfloat16 (all). Cosines err by a few
1e-6, which the tensor cores' own sums cause.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import triton
import triton.language as tl
from torch import Tensor

#: largest N; labels and distances share 32 bits, and integer sums stay below 2^31
MAX_TOKENS = 4096
_BLOCK = 64  # order of the pivot blocks of the sweep
_TILE = 64  # tokens in one tile of an assignment
_BUDGET = 2**28  # floats in the sweep's buffer; larger batches run in chunks
_GRID = tl.constexpr(65536.0)
_LABEL_BITS = tl.constexpr(12)
_LABEL_MASK = tl.constexpr(4095)
_LARGEST = tl.constexpr(2**31 - 1)
_PART = tl.constexpr(tl.bfloat16)  # Triton's interpreter cannot multiply it: the tests take float32
_MAGIC = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it rounds half to even, as torch.round does


_Function = TypeVar("_Function", bound=Callable[..., Any])


def _on_device(function: _Function) -> _Function:
    """Launch on the device of the first argument, whichever is the current one."""

    @functools.wraps(function)
    def wrapped(first: Tensor, *args: Any, **kwargs: Any) -> Any:
        with torch.cuda.device_of(first):
            return function(first, *args, **kwargs)

    return wrapped  # type: ignore[return-value]


@triton.jit
def _round(x):
    """Round to the nearest integer, ties to even; |x| < 2^22."""
    return (x + _MAGIC) - _MAGIC


@triton.jit
def _plus_dot(total, values, member, UNIT: tl.constexpr):
    """total + values @ member, of an indicator; UNIT: |values| <= 1, for which float16 serves."""
    kind: tl.constexpr = tl.float16 if UNIT else _PART
    indicator = member.to(kind)
    for _ in tl.static_range(2 if UNIT else 3):
        part = values.to(kind)
        values -= part.to(tl.float32)
        total = tl.dot(part, indicator, total)
    return total


# --- Gram matrices --------------------------------------------------------------------------------


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
def _tile(index):
    """The tile (i, j), i >= j, with number `index` in the order (0,0) (1,0) (1,1) (2,0) ..."""
    i = ((tl.sqrt(8.0 * index.to(tl.float32) + 1.0) - 1.0) * 0.5).to(tl.int32)
    i = tl.where((i + 1) * (i + 2) // 2 <= index, i + 1, i)
    i = tl.where(i * (i + 1) // 2 > index, i - 1, i)
    return i, index - i * (i + 1) // 2


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


# --- resolvents -----------------------------------------------------------------------------------
#
# With D = diag(c + t) and K + t I = D^½ (I + X) D^½, X has a zero diagonal and
#
#     (I + X)⁻¹ = I + G,    G_ii = r_i(t) of lib.entropy's quadrature.
#
# The sweep operator turns X into Y = -G in place, one pivot block after another: with the block's
# Cholesky factor inverted, M = L⁻¹, and U the rest of its columns, W = U Mᵀ, V = W M,
#
#     Y_ij -= W_i W_jᵀ,    Y_ik = V_i,    Y_kk = I - Mᵀ M.
#
# Storing the diagonal less one keeps every digit of a small r_i: it is a sum of positive terms.
# Going through M instead of the block's inverse is what makes this as stable as Cholesky, and no
# pivot falls below the smallest eigenvalue t of K + t I. Only the lower triangle is held.


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
def _combine_kernel(y, c, t, weights, out, size, padded, nodes, BLOCK: tl.constexpr):
    """One tile, and its mirror image, of Σ_q weight_q (K + t_q I)⁻¹."""
    i, j = _tile(tl.program_id(0))
    item = tl.program_id(1).to(tl.int64)
    rows = i * BLOCK + tl.arange(0, BLOCK)
    cols = j * BLOCK + tl.arange(0, BLOCK)
    left = tl.load(c + item * size + rows, mask=rows < size, other=1.0)
    right = tl.load(c + item * size + cols, mask=cols < size, other=1.0)
    identity = (rows[:, None] == cols[None, :]).to(tl.float32)
    here = y + item * nodes * padded * padded + rows[:, None] * padded + cols[None, :]
    total = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    for q in range(nodes):
        shift = tl.load(t + q)
        inverse = identity - tl.load(here + q * padded * padded)
        weight = tl.load(weights + q) * tl.rsqrt(left + shift)[:, None]
        total += weight * tl.rsqrt(right + shift)[None, :] * inverse
    out += item * size * size
    inside = (rows[:, None] < size) & (cols[None, :] < size)
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
def resolvent_sum(matrix: Tensor, t: Tensor, weights: Tensor) -> Tensor:
    """Σ_q weights_q (K + t_q I)⁻¹ of Gram matrices K (..., N, N)."""
    size = matrix.shape[-1]
    flat, c, chunk = _chunks(matrix, len(t))
    out = torch.empty_like(flat)
    for start in range(0, len(flat), chunk):
        piece = slice(start, start + chunk)
        y = _sweep(flat[piece], c[piece], t)
        tiles = y.shape[-1] // _BLOCK
        grid = (tiles * (tiles + 1) // 2, len(y))
        _combine_kernel[grid](
            y, c[piece], t, weights, out[piece], size, y.shape[-1], len(t), BLOCK=_BLOCK
        )
    return out.reshape(matrix.shape)


# --- k-means --------------------------------------------------------------------------------------
#
# Squared distances of unit tokens are whole numbers of 1/65536 (lib.clustering's grid), so all sums
# of the seeding are exact in int32. An assignment is one int32, distance << 12 | cluster: the
# minimum over clusters is the nearest one, of equals the first.


@triton.jit(do_not_specialize=["clusters", "per_item"])
def _seed_kernel(
    pairs, uniforms, packed, size, clusters, per_item, TRIALS: tl.constexpr, BLOCK: tl.constexpr
):
    """Greedy k-means++ of one item from its squared distances, and the first assignment."""
    item = tl.program_id(0).to(tl.int64)
    pairs += item * size * size
    uniforms += item * per_item
    at = tl.arange(0, BLOCK)
    inside = at < size
    trial = tl.arange(0, TRIALS)
    centre = tl.minimum((tl.load(uniforms) * size).to(tl.int32), size - 1)
    closest = tl.load(pairs + centre * size + at, mask=inside, other=0)
    total = tl.sum(closest, axis=0)
    label = tl.zeros((BLOCK,), dtype=tl.int32)
    share = tl.load(uniforms + TRIALS + trial, mask=trial < TRIALS * (clusters - 1), other=0.0)
    for step in range(1, clusters):
        target = (share * total.to(tl.float64)).to(tl.int32)
        following = step + 1
        share = tl.load(uniforms + tl.minimum(following, clusters - 1) * TRIALS + trial)
        cumulative = tl.cumsum(closest, axis=0)
        # beyond the last token the sum stays at the total, which no target reaches
        below = cumulative[None, :] <= target[:, None]
        tokens = tl.minimum(tl.sum(below.to(tl.int32), axis=1), size - 1)
        place = pairs + tokens[:, None] * size + at[None, :]
        rows = tl.load(place, mask=inside[None, :], other=0)
        rows = tl.minimum(rows, closest[None, :])
        sums = tl.sum(rows, axis=1)
        total = tl.min(sums, axis=0)
        best = tl.min(tl.where(sums == total, trial, TRIALS), axis=0)
        chosen = tl.sum(tl.where(trial[:, None] == best, rows, 0), axis=0)
        label = tl.where(chosen < closest, step, label)
        closest = chosen
    tl.store(packed + item * size + at, (closest << _LABEL_BITS) | label, mask=inside)


@triton.jit
def _pairs_kernel(k, pairs, count, BLOCK: tl.constexpr):
    """Squared distances of unit tokens, on the grid, from their cosines."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    cosine = tl.load(k + at, mask=at < count, other=1.0)
    distance = tl.maximum(_round((2.0 - 2.0 * cosine) * _GRID), 0.0)
    tl.store(pairs + at, distance.to(tl.int32), mask=at < count)


@triton.jit
def _own_kernel(k, packed, following, own, done, size, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Σ_j K_ij over the tokens j of i's own cluster; also clears the next assignment."""
    item = tl.program_id(1).to(tl.int64)
    if tl.load(done + item) == 0:
        k += item * size * size
        packed += item * size
        rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        inside = rows < size
        label = tl.load(packed + rows, mask=inside, other=-1) & _LABEL_MASK
        total = tl.zeros((ROWS,), dtype=tl.float32)
        for start in range(0, size, COLS):
            cols = start + tl.arange(0, COLS)
            other = tl.load(packed + cols, mask=cols < size, other=0) & _LABEL_MASK
            same = (label[:, None] == other[None, :]) & (cols[None, :] < size)
            same = same & inside[:, None]
            values = tl.load(k + rows[:, None] * size + cols[None, :], mask=same, other=0.0)
            total += tl.sum(values, axis=1)
        tl.store(own + item * size + rows, total, mask=inside)
        tl.store(following + item * size + rows, _LARGEST, mask=inside)


@triton.jit(do_not_specialize=["clusters"])
def _assign_kernel(
    k, packed, following, own, done, size, clusters,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Distances of ROWS tokens to COLS centroids, into the minimum over all clusters."""
    item = tl.program_id(2).to(tl.int64)
    if tl.load(done + item) == 0:
        k += item * size * size
        packed += item * size
        own += item * size
        rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        cols = tl.program_id(1) * COLS + tl.arange(0, COLS)
        depth = tl.arange(0, DEPTH)
        product = tl.zeros((ROWS, COLS), dtype=tl.float32)
        # added up over the tokens at the end: a sum across threads in each step would hold it up
        counts = tl.zeros((DEPTH, COLS), dtype=tl.int32)
        withins = tl.zeros((DEPTH, COLS), dtype=tl.float32)
        for start in range(0, size, DEPTH):
            tokens = start + depth
            label = tl.load(packed + tokens, mask=tokens < size, other=0) & _LABEL_MASK
            label = tl.where(tokens < size, label, -1)
            sums = tl.load(own + tokens, mask=tokens < size, other=0.0)
            place = k + rows[:, None] * size + tokens[None, :]
            inside = (rows[:, None] < size) & (tokens[None, :] < size)
            values = tl.load(place, mask=inside, other=0.0)
            member = label[:, None] == cols[None, :]
            product = _plus_dot(product, values, member, True)
            counts += member.to(tl.int32)
            withins += tl.where(member, sums[:, None], 0.0)
        count = tl.sum(counts, axis=0).to(tl.float32)
        within = tl.sum(withins, axis=0)
        there = tl.maximum(count, 1.0)
        distance = 1.0 - 2.0 * (product / there[None, :]) + (within / (there * there))[None, :]
        whole = tl.maximum(_round(distance * _GRID), 0.0).to(tl.int32)
        key = (whole << _LABEL_BITS) | cols[None, :]
        key = tl.where((count > 0)[None, :], key, _LARGEST)
        nearest = tl.min(key, axis=1)
        tl.atomic_min(following + item * size + rows, nearest, mask=rows < size, sem="relaxed")


@triton.jit(do_not_specialize=["clusters"])
def _empty_kernel(
    packed, following, done, missing, vacant, size, clusters,
    BLOCK: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """How many clusters are empty, and which; without any, whether the labels are at rest."""
    item = tl.program_id(0).to(tl.int64)
    count = 0
    if tl.load(done + item) == 0:
        at = tl.arange(0, BLOCK)
        inside = at < size
        key = tl.load(following + item * size + at, mask=inside, other=0)
        label = tl.where(inside, key & _LABEL_MASK, -1)
        bins = tl.arange(0, BINS)
        tokens = tl.histogram(tl.where(inside, label, BINS - 1), BINS)
        empty = (tokens == 0) & (bins < clusters)
        rank = tl.cumsum(empty.to(tl.int32), axis=0) - 1
        tl.store(vacant + item * clusters + rank, bins, mask=empty)
        count = tl.sum(empty.to(tl.int32), axis=0)
        if count == 0:
            before = tl.load(packed + item * size + at, mask=inside, other=0) & _LABEL_MASK
            changed = tl.sum(((before != label) & inside).to(tl.int32), axis=0)
            tl.store(done + item, (changed == 0).to(tl.int32))
    tl.store(missing + item, count)


@triton.jit
def _spare_kernel(packed, following, missing, size, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """The distances of tokens that are not the nearest of their cluster to `packed`, else -1."""
    item = tl.program_id(1).to(tl.int64)
    if tl.load(missing + item) > 0:
        packed += item * size
        following += item * size
        at = tl.arange(0, BLOCK)
        inside = at < size
        key = tl.load(following + at, mask=inside, other=0)
        rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        mine = tl.load(following + rows, mask=rows < size, other=0)
        same = ((key & _LABEL_MASK)[None, :] == (mine & _LABEL_MASK)[:, None]) & inside[None, :]
        own, far = (key >> _LABEL_BITS)[None, :], (mine >> _LABEL_BITS)[:, None]
        before = (own < far) | ((own == far) & (at[None, :] < rows[:, None]))
        spare = tl.sum((same & before).to(tl.int32), axis=1) > 0
        tl.store(packed + rows, tl.where(spare, mine >> _LABEL_BITS, -1), mask=rows < size)


@triton.jit(do_not_specialize=["clusters"])
def _move_kernel(
    packed, following, missing, vacant, size, clusters, BLOCK: tl.constexpr, ROWS: tl.constexpr
):
    """Give the empty clusters the spare tokens, the farthest first."""
    item = tl.program_id(1).to(tl.int64)
    count = tl.load(missing + item)
    if count > 0:
        packed += item * size
        at = tl.arange(0, BLOCK)
        inside = at < size
        spare = tl.load(packed + at, mask=inside, other=-1)
        rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        mine = tl.load(packed + rows, mask=rows < size, other=-1)
        before = (spare[None, :] > mine[:, None]) | (
            (spare[None, :] == mine[:, None]) & (at[None, :] < rows[:, None])
        )
        rank = tl.sum((before & inside[None, :]).to(tl.int32), axis=1)
        moves = (mine > 0) & (rank < count)
        cluster = tl.load(vacant + item * clusters + rank, mask=moves, other=0)
        tl.store(following + item * size + rows, cluster, mask=moves & (rows < size))


@triton.jit(do_not_specialize=["clusters"])
def _lengths_kernel(
    packed, own, counts, lengths, size, clusters, COLS: tl.constexpr, DEPTH: tl.constexpr
):
    """Tokens per cluster and squared lengths of the centroids."""
    item = tl.program_id(1).to(tl.int64)
    cols = tl.program_id(0) * COLS + tl.arange(0, COLS)
    members = tl.zeros((DEPTH, COLS), dtype=tl.int32)
    withins = tl.zeros((DEPTH, COLS), dtype=tl.float32)
    for start in range(0, size, DEPTH):
        tokens = start + tl.arange(0, DEPTH)
        label = tl.load(packed + item * size + tokens, mask=tokens < size, other=0) & _LABEL_MASK
        sums = tl.load(own + item * size + tokens, mask=tokens < size, other=0.0)
        member = (label[:, None] == cols[None, :]) & (tokens < size)[:, None]
        members += member.to(tl.int32)
        withins += tl.where(member, sums[:, None], 0.0)
    count = tl.sum(members, axis=0)
    within = tl.sum(withins, axis=0)
    there = tl.maximum(count, 1).to(tl.float32)
    inside = cols < clusters
    tl.store(counts + item * clusters + cols, count, mask=inside)
    tl.store(lengths + item * clusters + cols, within / (there * there), mask=inside)


@triton.jit(do_not_specialize=["clusters"])
def _finish_kernel(
    packed, own, counts, lengths, labels, distances, size, clusters, BLOCK: tl.constexpr
):
    """Labels, and squared distances of the tokens to their own centroids."""
    item = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    label = tl.load(packed + item * size + at, mask=inside, other=0) & _LABEL_MASK
    count = tl.load(counts + item * clusters + label, mask=inside, other=1).to(tl.float32)
    length = tl.load(lengths + item * clusters + label, mask=inside, other=0.0)
    sums = tl.load(own + item * size + at, mask=inside, other=0.0)
    distance = tl.maximum(1.0 - 2.0 * sums / count + length, 0.0)
    tl.store(labels + item * size + at, label.to(tl.int64), mask=inside)
    tl.store(distances + item * size + at, distance, mask=inside)


@_on_device
def kmeans(
    matrix: Tensor, n_clusters: int, uniforms: Tensor, *, n_iter: int, refill_every: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Labels (B, N) int64, counts (B, M) int64 and squared distances (B, N) of `lib.clustering`.

    `matrix` (B, N, N) float32 has a diagonal of ones; `uniforms` (B or 1, M, trials) is float64.
    """
    items, size, _ = matrix.shape
    matrix, uniforms = matrix.contiguous(), uniforms.contiguous()
    options = {"dtype": torch.int32, "device": matrix.device}
    packed = torch.empty(items, size, **options)
    following = torch.empty(items, size, **options)
    done, missing = torch.zeros(2, items, **options)
    vacant = torch.empty(items, n_clusters, **options)
    counts = torch.empty(items, n_clusters, dtype=torch.int64, device=matrix.device)
    own = torch.empty(items, size, dtype=torch.float32, device=matrix.device)
    lengths = torch.empty(items, n_clusters, dtype=torch.float32, device=matrix.device)
    steps, trials = uniforms.shape[1:]
    block = triton.next_power_of_2(size)
    pairs = torch.empty(matrix.shape, **options)
    count = matrix.numel()
    _pairs_kernel[(triton.cdiv(count, 2048),)](matrix, pairs, count, BLOCK=2048)
    _seed_kernel[(items,)](
        pairs,
        uniforms,
        packed,
        size,
        n_clusters,
        steps * trials if len(uniforms) > 1 else 0,
        TRIALS=trials,
        BLOCK=block,
        num_warps=8,
    )
    rows = (triton.cdiv(size, 16), items)
    tiles = (triton.cdiv(size, _TILE), triton.cdiv(n_clusters, 16), items)
    bins = 2 * triton.next_power_of_2(n_clusters)
    for iteration in range(n_iter):
        _own_kernel[rows](matrix, packed, following, own, done, size, ROWS=16, COLS=128)
        _assign_kernel[tiles](
            matrix,
            packed,
            following,
            own,
            done,
            size,
            n_clusters,
            ROWS=_TILE,
            COLS=16,
            DEPTH=128,
        )
        if iteration % refill_every == 0 or iteration == n_iter - 1:
            _empty_kernel[(items,)](
                packed, following, done, missing, vacant, size, n_clusters, BLOCK=block, BINS=bins
            )
            _spare_kernel[rows](packed, following, missing, size, BLOCK=block, ROWS=16)
            _move_kernel[rows](
                packed, following, missing, vacant, size, n_clusters, BLOCK=block, ROWS=16
            )
        packed, following = following, packed
    # At rest both hold the same labels, so the last one written to serves in any case.
    done.zero_()
    _own_kernel[rows](matrix, packed, following, own, done, size, ROWS=16, COLS=128)
    _lengths_kernel[(triton.cdiv(n_clusters, 16), items)](
        packed, own, counts, lengths, size, n_clusters, COLS=16, DEPTH=128
    )
    labels = torch.empty(items, size, dtype=torch.int64, device=matrix.device)
    distances = torch.empty_like(own)
    _finish_kernel[(triton.cdiv(size, 256), items)](
        packed, own, counts, lengths, labels, distances, size, n_clusters, BLOCK=256
    )
    return labels, counts, distances


@triton.jit(do_not_specialize=["clusters"])
def _average_kernel(
    x, labels, out, size, height, clusters, per_item, along, across,
    UNIT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One tile of the means over each cluster's columns of x (height, size) with given strides."""
    item = tl.program_id(2).to(tl.int64)
    x += item * per_item
    labels += item * size
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.program_id(1) * COLS + tl.arange(0, COLS)
    total = tl.zeros((ROWS, COLS), dtype=tl.float32)
    counts = tl.zeros((DEPTH, COLS), dtype=tl.int32)
    for start in range(0, size, DEPTH):
        tokens = start + tl.arange(0, DEPTH)
        label = tl.load(labels + tokens, mask=tokens < size, other=-1).to(tl.int32)
        place = x + rows[:, None] * along + tokens[None, :] * across
        inside = (rows[:, None] < height) & (tokens[None, :] < size)
        values = tl.load(place, mask=inside, other=0.0)
        member = label[:, None] == cols[None, :]
        total = _plus_dot(total, values, member, UNIT)
        counts += member.to(tl.int32)
    total /= tl.maximum(tl.sum(counts, axis=0), 1).to(tl.float32)[None, :]
    inside = (rows[:, None] < height) & (cols[None, :] < clusters)
    place = out + item * height * clusters + rows[:, None] * clusters + cols[None, :]
    tl.store(place, total, mask=inside)


@_on_device
def centroid_gram(matrix: Tensor, labels: Tensor, n_clusters: int, *, unit: bool = False) -> Tensor:
    """`lib.clustering.centroid_gram` (..., M, M) of Gram matrices (..., N, N), labels (..., N).

    `unit` says that no entry exceeds one, which takes two products instead of three.
    """
    lead, size = matrix.shape[:-2], matrix.shape[-1]
    items = lead.numel()
    matrix, labels = matrix.contiguous(), labels.contiguous()
    half = matrix.new_empty(items, size, n_clusters)
    out = matrix.new_empty(*lead, n_clusters, n_clusters)
    launch = {"UNIT": unit, "ROWS": _TILE, "COLS": 32, "DEPTH": 128, "num_warps": 4}
    columns = triton.cdiv(n_clusters, 32)
    _average_kernel[(triton.cdiv(size, _TILE), columns, items)](
        matrix, labels, half, size, size, n_clusters, size * size, size, 1, **launch
    )
    # the other side: the same of the transpose
    _average_kernel[(triton.cdiv(n_clusters, _TILE), columns, items)](
        half, labels, out, size, n_clusters, n_clusters, size * n_clusters, 1, n_clusters, **launch
    )
    return (out + out.mT) / 2


# --- the choice -----------------------------------------------------------------------------------


@triton.jit
def _grid(values, inside):
    """Lower end and width of the range that `lib.selection._quantise` divides."""
    finite = inside & (tl.abs(values) < float("inf"))
    low = tl.min(tl.where(finite, values, float("inf")), axis=0)
    high = tl.max(tl.where(finite, values, -float("inf")), axis=0)
    span = tl.maximum(high - low, 1e-6 * tl.maximum(tl.abs(low), tl.abs(high)))
    return low, tl.maximum(span, 1e-30)


@triton.jit
def _on_grid(values, low, span):
    finite = tl.abs(values) < float("inf")
    return tl.where(finite, _round((tl.where(finite, values, low) - low) / span * _GRID), values)


@triton.jit
def _rank_rows(values, rank, size, rows, sign, BLOCK: tl.constexpr):
    """How many values come before each of `rows`, largest first if sign is -1, ties by index."""
    at = tl.arange(0, BLOCK)
    inside = at < size
    loaded = tl.load(values + at, mask=inside, other=0.0)
    low, span = _grid(loaded, inside)
    all_values = sign * _on_grid(loaded, low, span)
    mine = sign * _on_grid(tl.load(values + rows, mask=rows < size, other=0.0), low, span)
    before = (all_values[None, :] < mine[:, None]) | (
        (all_values[None, :] == mine[:, None]) & (at[None, :] < rows[:, None])
    )
    count = tl.sum((before & inside[None, :]).to(tl.int32), axis=1)
    tl.store(rank + rows, count, mask=rows < size)


@triton.jit(do_not_specialize=["clusters"])
def _ranks_kernel(
    scores, distances, cluster_rank, near_rank, size, clusters,
    BLOCK: tl.constexpr, BINS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Ranks of the clusters by score and of the tokens by distance to their centroid."""
    item = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cluster_rank += item * clusters
    _rank_rows(scores + item * clusters, cluster_rank, clusters, rows, -1.0, BINS)
    _rank_rows(distances + item * size, near_rank + item * size, size, rows, 1.0, BLOCK)


@triton.jit(do_not_specialize=["clusters", "cores", "per_cluster"])
def _keys_kernel(
    labels, counts, cluster_rank, near_rank, keys, mask, core,
    size, clusters, cores, per_cluster,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Core clusters, and Algorithm 1's choice or each token's place in the order of choice."""
    item = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cluster_rank += item * clusters
    rank = tl.load(cluster_rank + rows, mask=rows < clusters, other=0)
    count = tl.load(counts + item * clusters + rows, mask=rows < clusters, other=0)
    is_core = ((rank < cores) & (count > 0)).to(tl.int8)
    tl.store(core + item * clusters + rows, is_core, mask=rows < clusters)

    at = tl.arange(0, BLOCK)
    inside = at < size
    label = tl.load(labels + item * size + at, mask=inside, other=0).to(tl.int32)
    near = tl.load(near_rank + item * size + at, mask=inside, other=0)
    own = tl.load(labels + item * size + rows, mask=rows < size, other=0).to(tl.int32)
    mine = tl.load(near_rank + item * size + rows, mask=rows < size, other=0)
    nearer = (label[None, :] == own[:, None]) & (near[None, :] < mine[:, None])
    place = tl.sum((nearer & inside[None, :]).to(tl.int32), axis=1)
    rank = tl.load(cluster_rank + own, mask=rows < size, other=0)
    in_core = rank < cores
    taken = in_core & (place < per_cluster)
    if EXACT:
        tier = size * size * 2
        other = tl.where(in_core, tier + mine, 2 * tier + rank * size + mine)
        key = tl.where(taken, place * clusters + rank, other)
        tl.store(keys + item * size + rows, key, mask=rows < size)
    else:
        tl.store(mask + item * size + rows, taken.to(tl.int8), mask=rows < size)


@triton.jit(do_not_specialize=["budget"])
def _first_kernel(keys, mask, size, budget, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """Mark the tokens with the `budget` smallest keys, which are distinct."""
    item = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = tl.arange(0, BLOCK)
    inside = at < size
    key = tl.load(keys + item * size + at, mask=inside, other=0)
    mine = tl.load(keys + item * size + rows, mask=rows < size, other=0)
    before = (key[None, :] < mine[:, None]) & inside[None, :]
    rank = tl.sum(before.to(tl.int32), axis=1)
    tl.store(mask + item * size + rows, (rank < budget).to(tl.int8), mask=rows < size)


@_on_device
def choose(
    scores: Tensor,
    counts: Tensor,
    labels: Tensor,
    distances: Tensor,
    *,
    cores: int,
    per_cluster: int,
    budget: int | None,
) -> tuple[Tensor, Tensor]:
    """Mask (..., N) and core clusters (..., M) of `lib.selection.hierarchical`."""
    size, clusters = labels.shape[-1], counts.shape[-1]
    items = labels.shape[:-1].numel()
    labels, counts = labels.contiguous(), counts.contiguous()
    mask = torch.empty(labels.shape, dtype=torch.int8, device=labels.device)
    core = torch.empty(counts.shape, dtype=torch.int8, device=labels.device)
    integers = torch.empty(3, items, size, dtype=torch.int32, device=labels.device)
    keys, near_rank, cluster_rank = integers  # clusters never outnumber tokens
    grid = (triton.cdiv(size, 16), items)
    block, bins = triton.next_power_of_2(size), triton.next_power_of_2(clusters)
    _ranks_kernel[grid](
        scores.contiguous(),
        distances.contiguous(),
        cluster_rank,
        near_rank,
        size,
        clusters,
        BLOCK=block,
        BINS=bins,
        ROWS=16,
    )
    _keys_kernel[grid](
        labels,
        counts,
        cluster_rank,
        near_rank,
        keys,
        mask,
        core,
        size,
        clusters,
        cores,
        per_cluster,
        BLOCK=block,
        ROWS=16,
        EXACT=budget is not None,
    )
    if budget is not None:
        _first_kernel[grid](keys, mask, size, budget, BLOCK=block, ROWS=16)
    return mask.view(torch.bool), core.view(torch.bool)


# --- greedy forward selection ---------------------------------------------------------------------
#
# One launch a pick. Every program finds the pick in the gains of all tokens, then brings its own
# rows up to date and computes their next gains. What a launch reads of other rows and what it
# writes lie in different buffers, which swap roles from launch to launch.


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
