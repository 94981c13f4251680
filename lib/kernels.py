"""Triton kernels for the scorer on a CUDA device: Gram matrices, resolvents, k-means, the choice.

Nothing here defines a result. Every function computes what a plain PyTorch function of
`lib.entropy`, `lib.clustering` or `lib.selection` computes, which stays the reference, the route on
a CPU and the fallback; those modules import this one lazily (`lib.entropy.fast`). All shapes are
static, nothing waits for the host, and an item's result does not depend on the rest of its batch.

Float32 only. Matrix products run on the tensor cores: half-precision tokens as they are (their
products are exact in float32), float32 as three TF32 products, indicators as three bfloat16 parts
of the other factor; each is as precise as a plain float32 product to within a few units.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: largest N; labels and distances share 32 bits, and integer sums stay below 2^31
MAX_TOKENS = 4096
_BLOCK = 64  # order of the pivot blocks of the sweep
_BUDGET = 2**28  # floats in the sweep's buffer; larger batches run in chunks
_GRID = tl.constexpr(65536.0)
_LABEL_BITS = tl.constexpr(12)
_LABEL_MASK = tl.constexpr(4095)
_LARGEST = tl.constexpr(2**31 - 1)
_PART = tl.constexpr(tl.bfloat16)  # Triton's interpreter cannot multiply it: the tests take float32
_MAGIC = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it rounds half to even, as torch.round does


@triton.jit
def _round(x):
    """Round to the nearest integer, ties to even; |x| < 2^22."""
    return (x + _MAGIC) - _MAGIC


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
        total *= left_scale[:, None] * right_scale[None, :]  # symmetric to the last bit
    total = tl.where(rows[:, None] == cols[None, :], 1.0, total)
    inside = (rows[:, None] < size) & (cols[None, :] < size)
    tl.store(out + rows[:, None] * size + cols[None, :], total, mask=inside)
    if i != j:
        mirror = (cols[:, None] < size) & (rows[None, :] < size)
        tl.store(out + cols[:, None] * size + rows[None, :], tl.trans(total), mask=mirror)


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
def _factor(x, floor, BLOCK: tl.constexpr):
    """Inverse Cholesky factor M of I + x, and I - MᵀM with every digit of its diagonal.

    `floor` (BLOCK,) bounds the pivots. In place: columns up to the pivot hold the unit-lower
    inverse, the rest the Schur complement, and the diagonal the pivots less one.
    """
    at = tl.arange(0, BLOCK)
    z = x
    for p in range(BLOCK):
        row = tl.sum(tl.where(at[:, None] == p, z, 0.0), axis=0)
        pivot = 1.0 + tl.sum(tl.where(at == p, row, 0.0), axis=0)
        pivot = tl.maximum(pivot, tl.sum(tl.where(at == p, floor, 0.0), axis=0))
        # by symmetry the column below the pivot is the row beyond it
        factor = tl.where(at > p, row, 0.0) / pivot
        row = tl.where(at == p, 1.0, row)
        z = tl.where((at[:, None] > p) & (at[None, :] == p), 0.0, z)
        z -= factor[:, None] * row[None, :]
    less = tl.sum(tl.where(at[:, None] == at[None, :], z, 0.0), axis=1)
    less = tl.maximum(less, floor - 1.0)
    pivots = 1.0 + less
    lower = tl.where(at[:, None] > at[None, :], z, 0.0)
    strict = lower * tl.rsqrt(pivots)[:, None]
    m = tl.where(at[:, None] == at[None, :], tl.rsqrt(pivots)[:, None], strict)
    swept = -tl.dot(tl.trans(m), m, input_precision="tf32x3")
    own = less / pivots - tl.sum(strict * strict, axis=0)
    return m, tl.where(at[:, None] == at[None, :], own[:, None], swept)


@triton.jit
def _store_factor(x, m, g, c, t, size, block, BLOCK: tl.constexpr):
    """Factor a pivot block; M to `m`, its swept block to `g`."""
    at = tl.arange(0, BLOCK)
    rows = block * BLOCK + at
    own = tl.load(c + rows, mask=rows < size, other=1.0)
    factor, swept = _factor(x, t / (own + t), BLOCK)
    place = at[:, None] * BLOCK + at[None, :]
    tl.store(m + place, factor)
    tl.store(g + place, swept)


@triton.jit
def _start_kernel(k, c, t, y, m, g, size, padded, nodes, BLOCK: tl.constexpr):
    """One tile of X for one node, and the factor of the first pivot block."""
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
    if i == 0:
        m += matrix * BLOCK * BLOCK
        g += matrix * BLOCK * BLOCK
        _store_factor(x, m, g, c, shift, size, 0, BLOCK)


@triton.jit(do_not_specialize=["step"])
def _panel_kernel(y, m, g, w, padded, step, BLOCK: tl.constexpr):
    """The block column of the pivot: W_i to `w`, V_i and the swept block in place."""
    i = tl.program_id(0)
    matrix = tl.program_id(1).to(tl.int64)
    y += matrix * padded * padded
    at = tl.arange(0, BLOCK)
    place = at[:, None] * BLOCK + at[None, :]
    if i == step:
        swept = tl.load(g + matrix * BLOCK * BLOCK + place)
        here = y + (step * BLOCK + at)[:, None] * padded + (step * BLOCK + at)[None, :]
        tl.store(here, swept)
    else:
        factor = tl.load(m + matrix * BLOCK * BLOCK + place)
        top, side = tl.maximum(i, step), tl.minimum(i, step)
        here = y + (top * BLOCK + at)[:, None] * padded + (side * BLOCK + at)[None, :]
        u = tl.load(here)
        if i < step:
            u = tl.trans(u)
        half = tl.dot(u, tl.trans(factor), input_precision="tf32x3")
        tl.store(w + matrix * padded * BLOCK + i * BLOCK * BLOCK + place, half)
        v = tl.dot(half, factor, input_precision="tf32x3")
        if i < step:
            v = tl.trans(v)
        tl.store(here, v)


@triton.jit(do_not_specialize=["step"])
def _update_kernel(y, w, c, t, m, g, size, padded, nodes, step, BLOCK: tl.constexpr):
    """One tile of Y -= W Wᵀ, and the factor of the next pivot block."""
    i, j = _tile(tl.program_id(0))
    if (i != step) & (j != step):
        matrix = tl.program_id(1).to(tl.int64)
        at = tl.arange(0, BLOCK)
        place = at[:, None] * BLOCK + at[None, :]
        y += matrix * padded * padded
        w += matrix * padded * BLOCK
        here = y + (i * BLOCK + at)[:, None] * padded + (j * BLOCK + at)[None, :]
        left = tl.load(w + i * BLOCK * BLOCK + place)
        right = tl.load(w + j * BLOCK * BLOCK + place)
        x = tl.load(here) - tl.dot(left, tl.trans(right), input_precision="tf32x3")
        tl.store(here, x)
        if (i == j) & (i == step + 1):
            shift = tl.load(t + matrix % nodes)
            m += matrix * BLOCK * BLOCK
            g += matrix * BLOCK * BLOCK
            _store_factor(x, m, g, c + matrix // nodes * size, shift, size, i, BLOCK)


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


def _sweep(matrix: Tensor, c: Tensor, t: Tensor, *, block: int) -> Tensor:
    """Y (B, Q, P, P), lower triangle, of Gram matrices (B, N, N) with diagonal c and nodes t."""
    (items, size), nodes = c.shape, len(t)
    tiles = triton.cdiv(size, block)
    padded = tiles * block
    options = {"dtype": torch.float32, "device": matrix.device}
    y = torch.empty(items, nodes, padded, padded, **options)
    m = torch.empty(items * nodes, block, block, **options)
    g = torch.empty(items * nodes, block, block, **options)
    w = torch.empty(items * nodes, padded, block, **options)
    lower = (tiles * (tiles + 1) // 2, items * nodes)
    launch = {"BLOCK": block, "num_warps": 4}
    _start_kernel[lower](matrix, c, t, y, m, g, size, padded, nodes, **launch)
    for step in range(tiles):
        _panel_kernel[(tiles, items * nodes)](y, m, g, w, padded, step, **launch)
        if tiles > 1:
            _update_kernel[lower](y, w, c, t, m, g, size, padded, nodes, step, **launch)
    return y


def _chunks(matrix: Tensor, nodes: int) -> tuple[Tensor, Tensor, int]:
    """Matrices flattened to (B, N, N), their diagonals, and how many to sweep at a time."""
    size = matrix.shape[-1]
    flat = matrix.detach().reshape(-1, size, size).contiguous()
    diagonal = flat.diagonal(dim1=-2, dim2=-1).contiguous()
    padded = triton.cdiv(size, _BLOCK) * _BLOCK
    return flat, diagonal, max(1, _BUDGET // (nodes * padded * padded))


def resolvent_diagonal(matrix: Tensor, t: Tensor, *, block: int = _BLOCK) -> Tensor:
    """r_i(t) (..., Q, N): (c_i + t) ((K + t I)⁻¹)_ii - 1 without cancellation, K (..., N, N)."""
    size = matrix.shape[-1]
    flat, c, chunk = _chunks(matrix, len(t))
    parts = []
    for start in range(0, len(flat), chunk):
        piece = slice(start, start + chunk)
        y = _sweep(flat[piece], c[piece], t, block=block)
        parts.append(-y.diagonal(dim1=-2, dim2=-1)[..., :size])
    r = parts[0] if len(parts) == 1 else torch.cat(parts)
    return r.reshape(*matrix.shape[:-2], len(t), size)


def resolvent_sum(matrix: Tensor, t: Tensor, weights: Tensor, *, block: int = _BLOCK) -> Tensor:
    """Σ_q weights_q (K + t_q I)⁻¹ of Gram matrices K (..., N, N)."""
    size = matrix.shape[-1]
    flat, c, chunk = _chunks(matrix, len(t))
    out = torch.empty_like(flat)
    for start in range(0, len(flat), chunk):
        piece = slice(start, start + chunk)
        y = _sweep(flat[piece], c[piece], t, block=block)
        tiles = y.shape[-1] // block
        grid = (tiles * (tiles + 1) // 2, len(y))
        _combine_kernel[grid](
            y, c[piece], t, weights, out[piece], size, y.shape[-1], len(t), BLOCK=block
        )
    return out.reshape(matrix.shape)


# --- k-means --------------------------------------------------------------------------------------
#
# Squared distances of unit tokens are whole numbers of 1/65536 (lib.clustering's grid), so all sums
# of the seeding are exact in int32. An assignment is one int32, distance << 12 | cluster: the
# minimum over clusters is the nearest one, of equals the first.


@triton.jit(do_not_specialize=["clusters", "per_item"])
def _seed_kernel(
    k, uniforms, packed, size, clusters, per_item, TRIALS: tl.constexpr, BLOCK: tl.constexpr
):
    """Greedy k-means++ of one item, and the first assignment."""
    item = tl.program_id(0).to(tl.int64)
    k += item * size * size
    uniforms += item * per_item
    at = tl.arange(0, BLOCK)
    inside = at < size
    trial = tl.arange(0, TRIALS)
    centre = (tl.load(uniforms) * size).to(tl.int32)
    centre = tl.minimum(centre, size - 1)
    first = tl.load(k + centre * size + at, mask=inside, other=1.0)
    closest = tl.maximum(_round((2.0 - 2.0 * first) * _GRID), 0.0).to(tl.int32)
    label = tl.zeros((BLOCK,), dtype=tl.int32)
    for step in range(1, clusters):
        cumulative = tl.cumsum(closest, axis=0)
        total = tl.sum(closest, axis=0)
        share = tl.load(uniforms + step * TRIALS + trial)
        target = (share * total.to(tl.float64)).to(tl.int32)
        below = (cumulative[None, :] <= target[:, None]) & inside[None, :]
        tokens = tl.minimum(tl.sum(below.to(tl.int32), axis=1), size - 1)
        place = k + tokens[:, None] * size + at[None, :]
        cosine = tl.load(place, mask=inside[None, :], other=1.0)
        rows = tl.maximum(_round((2.0 - 2.0 * cosine) * _GRID), 0.0).to(tl.int32)
        rows = tl.minimum(rows, closest[None, :])
        best = tl.argmin(tl.sum(rows, axis=1), axis=0)
        chosen = tl.sum(tl.where(trial[:, None] == best, rows, 0), axis=0)
        label = tl.where(chosen < closest, step, label)
        closest = chosen
    tl.store(packed + item * size + at, (closest << _LABEL_BITS) | label, mask=inside)


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
        count = tl.zeros((COLS,), dtype=tl.float32)
        within = tl.zeros((COLS,), dtype=tl.float32)
        for start in range(0, size, DEPTH):
            tokens = start + depth
            label = tl.load(packed + tokens, mask=tokens < size, other=0) & _LABEL_MASK
            label = tl.where(tokens < size, label, -1)
            sums = tl.load(own + tokens, mask=tokens < size, other=0.0)
            place = k + rows[:, None] * size + tokens[None, :]
            inside = (rows[:, None] < size) & (tokens[None, :] < size)
            values = tl.load(place, mask=inside, other=0.0)
            member = label[:, None] == cols[None, :]
            indicator = member.to(_PART)
            # three bfloat16 parts hold all 24 bits of a float32
            high = values.to(_PART)
            values -= high.to(tl.float32)
            middle = values.to(_PART)
            low = (values - middle.to(tl.float32)).to(_PART)
            product = tl.dot(high, indicator, product)
            product = tl.dot(middle, indicator, product)
            product = tl.dot(low, indicator, product)
            count += tl.sum(member.to(tl.float32), axis=0)
            within += tl.sum(tl.where(member, sums[:, None], 0.0), axis=0)
        there = tl.maximum(count, 1.0)
        distance = 1.0 - 2.0 * (product / there[None, :]) + (within / (there * there))[None, :]
        whole = tl.maximum(_round(distance * _GRID), 0.0).to(tl.int32)
        key = (whole << _LABEL_BITS) | cols[None, :]
        key = tl.where((count > 0)[None, :], key, _LARGEST)
        nearest = tl.min(key, axis=1)
        tl.atomic_min(following + item * size + rows, nearest, mask=rows < size, sem="relaxed")


@triton.jit(do_not_specialize=["clusters"])
def _refill_kernel(
    packed, following, done, size, clusters,
    BLOCK: tl.constexpr, BINS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """`lib.clustering._refill` of one item where a cluster is empty; and is it at rest?"""
    item = tl.program_id(0).to(tl.int64)
    if tl.load(done + item) == 0:
        packed += item * size
        following += item * size
        at = tl.arange(0, BLOCK)
        inside = at < size
        key = tl.load(following + at, mask=inside, other=0)
        label = tl.where(inside, key & _LABEL_MASK, -1)
        own = key >> _LABEL_BITS
        bins = tl.arange(0, BINS)
        count = tl.histogram(tl.where(inside, label, BINS - 1), BINS)
        empty = (count == 0) & (bins < clusters)
        missing = tl.sum(empty.to(tl.int32), axis=0)
        if missing > 0:
            rank_of_empty = tl.cumsum(empty.to(tl.int32), axis=0) - 1
            # Tokens that are not the nearest of their own cluster, the farthest first: first mark
            # them in the label bits' place above, then rank the marked ones.
            for start in range(0, size, ROWS):
                rows = start + tl.arange(0, ROWS)
                mine = tl.load(following + rows, mask=rows < size, other=0)
                nearer = (label[None, :] == (mine & _LABEL_MASK)[:, None]) & inside[None, :]
                far = (mine >> _LABEL_BITS)[:, None]
                before = (own[None, :] < far) | (
                    (own[None, :] == far) & (at[None, :] < rows[:, None])
                )
                spare = tl.sum((nearer & before).to(tl.int32), axis=1) > 0
                tl.store(packed + rows, tl.where(spare, mine >> _LABEL_BITS, -1), rows < size)
            tl.debug_barrier()
            spare = tl.load(packed + at, mask=inside, other=-1)
            for start in range(0, size, ROWS):
                rows = start + tl.arange(0, ROWS)
                mine = tl.load(packed + rows, mask=rows < size, other=-1)
                before = (spare[None, :] > mine[:, None]) | (
                    (spare[None, :] == mine[:, None]) & (at[None, :] < rows[:, None])
                )
                rank = tl.sum((before & inside[None, :]).to(tl.int32), axis=1)
                takes = empty[None, :] & (rank_of_empty[None, :] == rank[:, None])
                takes = takes & (mine > 0)[:, None]
                cluster = tl.sum(tl.where(takes, bins[None, :], 0), axis=1)
                moved = tl.sum(takes.to(tl.int32), axis=1) > 0
                old = tl.load(following + rows, mask=rows < size, other=0)
                new = tl.where(moved, cluster, old)
                tl.store(following + rows, new, mask=rows < size)
        else:
            before = tl.load(packed + at, mask=inside, other=0) & _LABEL_MASK
            changed = tl.sum(((before != label) & inside).to(tl.int32), axis=0)
            tl.store(done + item, (changed == 0).to(tl.int32))


@triton.jit(do_not_specialize=["clusters"])
def _lengths_kernel(
    packed, own, counts, lengths, size, clusters, COLS: tl.constexpr, DEPTH: tl.constexpr
):
    """Tokens per cluster and squared lengths of the centroids."""
    item = tl.program_id(1).to(tl.int64)
    cols = tl.program_id(0) * COLS + tl.arange(0, COLS)
    count = tl.zeros((COLS,), dtype=tl.int32)
    within = tl.zeros((COLS,), dtype=tl.float32)
    for start in range(0, size, DEPTH):
        tokens = start + tl.arange(0, DEPTH)
        label = tl.load(packed + item * size + tokens, mask=tokens < size, other=0) & _LABEL_MASK
        sums = tl.load(own + item * size + tokens, mask=tokens < size, other=0.0)
        member = (label[:, None] == cols[None, :]) & (tokens < size)[:, None]
        count += tl.sum(member.to(tl.int32), axis=0)
        within += tl.sum(tl.where(member, sums[:, None], 0.0), axis=0)
    there = tl.maximum(count, 1).to(tl.float32)
    inside = cols < clusters
    tl.store(counts + item * clusters + cols, count, mask=inside)
    tl.store(lengths + item * clusters + cols, within / (there * there), mask=inside)


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
    done = torch.zeros(items, **options)
    counts = torch.empty(items, n_clusters, **options)
    own = torch.empty(items, size, dtype=torch.float32, device=matrix.device)
    lengths = torch.empty(items, n_clusters, dtype=torch.float32, device=matrix.device)
    steps, trials = uniforms.shape[1:]
    block = triton.next_power_of_2(size)
    _seed_kernel[(items,)](
        matrix,
        uniforms,
        packed,
        size,
        n_clusters,
        steps * trials if len(uniforms) > 1 else 0,
        TRIALS=trials,
        BLOCK=block,
        num_warps=SEED_WARPS,
    )
    rows = (triton.cdiv(size, 16), items)
    tiles = (triton.cdiv(size, ASSIGN_ROWS), triton.cdiv(n_clusters, 64), items)
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
            ROWS=ASSIGN_ROWS,
            COLS=64,
            DEPTH=64,
        )
        if iteration % refill_every == 0 or iteration == n_iter - 1:
            _refill_kernel[(items,)](
                packed, following, done, size, n_clusters, BLOCK=block, BINS=bins, ROWS=16
            )
        packed, following = following, packed
    # At rest both hold the same labels, so the last one written to serves in any case.
    done.zero_()
    _own_kernel[rows](matrix, packed, following, own, done, size, ROWS=16, COLS=128)
    _lengths_kernel[(triton.cdiv(n_clusters, 64), items)](
        packed, own, counts, lengths, size, n_clusters, COLS=64, DEPTH=64
    )
    labels = (packed & int(_LABEL_MASK.value)).long()
    counts = counts.long()
    distances = 1 - 2 * own / counts.gather(1, labels) + lengths.gather(1, labels)
    return labels, counts, distances.clamp_min(0)


SEED_WARPS = 4
ASSIGN_ROWS = 32


# --- the choice -----------------------------------------------------------------------------------


@triton.jit
def _quantised(values, inside):
    """`lib.selection._quantise` of the elements inside."""
    finite = inside & (tl.abs(values) < float("inf"))
    low = tl.min(tl.where(finite, values, float("inf")), axis=0)
    high = tl.max(tl.where(finite, values, -float("inf")), axis=0)
    span = tl.maximum(high - low, 1e-6 * tl.maximum(tl.abs(low), tl.abs(high)))
    span = tl.maximum(span, 1e-30)
    return tl.where(finite, _round((values - low) / span * _GRID), values)


@triton.jit
def _ahead(values, inside, scratch, target, size, at, ROWS: tl.constexpr):
    """Store at `target` how many elements come before each one in ascending order, ties by index.

    `scratch` holds `values` too; both are read back after a barrier.
    """
    for start in range(0, size, ROWS):
        rows = start + tl.arange(0, ROWS)
        mine = tl.load(scratch + rows, mask=rows < size, other=0)
        before = (values[None, :] < mine[:, None]) | (
            (values[None, :] == mine[:, None]) & (at[None, :] < rows[:, None])
        )
        rank = tl.sum((before & inside[None, :]).to(tl.int32), axis=1)
        tl.store(target + rows, rank, mask=rows < size)


@triton.jit(do_not_specialize=["clusters", "cores", "per_cluster", "budget"])
def _choose_kernel(
    scores, counts, labels, distances, mask, core, floats, keys, near_rank, cluster_rank,
    size, clusters, cores, per_cluster, budget,
    BLOCK: tl.constexpr, BINS: tl.constexpr, ROWS: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """The second half of `lib.selection.hierarchical` for one item."""
    item = tl.program_id(0).to(tl.int64)
    labels += item * size
    floats += item * size
    keys += item * size
    near_rank += item * size
    cluster_rank += item * clusters
    at = tl.arange(0, BLOCK)
    inside = at < size
    bins = tl.arange(0, BINS)
    there = bins < clusters

    score = tl.load(scores + item * clusters + bins, mask=there, other=0.0)
    count = tl.load(counts + item * clusters + bins, mask=there, other=0)
    falling = -_quantised(score, there)
    tl.store(floats + bins, falling, mask=there)
    tl.debug_barrier()
    _ahead(falling, there, floats, cluster_rank, clusters, bins, ROWS)
    tl.debug_barrier()
    own_rank = tl.load(cluster_rank + bins, mask=there, other=0)
    tl.store(core + item * clusters + bins, (own_rank < cores) & (count > 0), mask=there)

    distance = tl.load(distances + item * size + at, mask=inside, other=0.0)
    distance = _quantised(distance, inside)
    tl.store(floats + at, distance, mask=inside)
    tl.debug_barrier()
    _ahead(distance, inside, floats, near_rank, size, at, ROWS)
    tl.debug_barrier()
    near = tl.load(near_rank + at, mask=inside, other=0)
    label = tl.load(labels + at, mask=inside, other=0).to(tl.int32)
    for start in range(0, size, ROWS):
        rows = start + tl.arange(0, ROWS)
        own = tl.load(labels + rows, mask=rows < size, other=0).to(tl.int32)
        mine = tl.load(near_rank + rows, mask=rows < size, other=0)
        nearer = (label[None, :] == own[:, None]) & (near[None, :] < mine[:, None])
        place = tl.sum((nearer & inside[None, :]).to(tl.int32), axis=1)
        rank = tl.load(cluster_rank + own, mask=rows < size, other=0)
        in_core = rank < cores
        taken = in_core & (place < per_cluster)
        if EXACT:
            tier = size * size * 2
            other = tl.where(in_core, tier + mine, 2 * tier + rank * size + mine)
            key = tl.where(taken, place * clusters + rank, other)
            tl.store(keys + rows, key, mask=rows < size)
        else:
            tl.store(mask + item * size + rows, taken, mask=rows < size)
    if EXACT:
        tl.debug_barrier()
        key = tl.load(keys + at, mask=inside, other=0)
        for start in range(0, size, ROWS):
            rows = start + tl.arange(0, ROWS)
            mine = tl.load(keys + rows, mask=rows < size, other=0)
            before = (key[None, :] < mine[:, None]) & inside[None, :]
            rank = tl.sum(before.to(tl.int32), axis=1)
            tl.store(mask + item * size + rows, rank < budget, mask=rows < size)


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
    device = labels.device
    mask = torch.empty(labels.shape, dtype=torch.bool, device=device)
    core = torch.empty(counts.shape, dtype=torch.bool, device=device)
    integers = torch.empty(3, items, size, dtype=torch.int32, device=device)
    floats = torch.empty(items, size, dtype=torch.float32, device=device)
    _choose_kernel[(items,)](
        scores.contiguous(),
        counts.contiguous(),
        labels.contiguous(),
        distances.contiguous(),
        mask,
        core,
        floats,
        integers[0],
        integers[1],
        integers[2],
        size,
        clusters,
        cores,
        per_cluster,
        budget or 0,
        BLOCK=triton.next_power_of_2(size),
        BINS=triton.next_power_of_2(clusters),
        ROWS=16,
        EXACT=budget is not None,
        num_warps=8,
    )
    return mask, core
