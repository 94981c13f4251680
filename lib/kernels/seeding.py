"""Greedy k-means++ of tokens from their Gram matrix, and the first assignment.

One program adds centre after centre: what each step does not need waits until all are there.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .common import _GRID
from .lloyd import _LABEL_BITS, _largest, _whole

_SUM = tl.constexpr(2.0**30)
_FEW = tl.constexpr(2**27)

# Distances are added up as whole numbers, whose sums know no order: those of unit tokens on the
# grid of all distances; others, which are float32, in some 2^-30 of their sum, which falls with
# every centre.


@triton.jit
def _coarse(distance, UNIT: tl.constexpr):
    """Distances of the seeding on the grid of all others."""
    return distance if UNIT else _whole(distance, tl.int64)


@triton.jit
def _counted(distance, scale, UNIT: tl.constexpr):
    """Distances as whole numbers whose sums fit int32."""
    return distance if UNIT else (distance * scale + 0.5).to(tl.int32)


@triton.jit
def _scale(distance):
    """The power of two, for equal sums to stay equal, that makes distances add up to some 2^30."""
    total = tl.sum(distance, axis=0)
    times = _SUM / tl.where(total > 0, total, _SUM)
    return ((times.to(tl.int32, bitcast=True) >> 23) << 23).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["clusters", "per_item"])
def _seed_kernel(
    pairs, uniforms, centres, size, clusters, per_item,
    UNIT: tl.constexpr, TRIALS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Greedy k-means++ of one item from its squared distances: the tokens that are the centres."""
    item = tl.program_id(0).to(tl.int64)
    pairs += item * size * size
    uniforms += item * per_item
    centres += item * clusters
    at = tl.arange(0, BLOCK)
    inside = at < size
    trial = tl.arange(0, TRIALS)
    centre = tl.minimum((tl.load(uniforms) * size).to(tl.int32), size - 1)
    tl.store(centres, centre)
    closest = tl.load(pairs + centre * size + at, mask=inside, other=0)
    scale = 1.0 if UNIT else _scale(closest)
    counts = _counted(closest, scale, UNIT)
    total = tl.sum(counts, axis=0)
    share = tl.load(uniforms + TRIALS + trial, mask=trial < TRIALS * (clusters - 1), other=0.0)
    for step in range(1, clusters):
        target = (share * total.to(tl.float64)).to(tl.int32)
        following = step + 1
        share = tl.load(uniforms + tl.minimum(following, clusters - 1) * TRIALS + trial)
        cumulative = tl.cumsum(counts, axis=0)
        # beyond the last token the sum stays at the total, which no target reaches
        below = cumulative[None, :] <= target[:, None]
        tokens = tl.minimum(tl.sum(below.to(tl.int32), axis=1), size - 1)
        place = pairs + tokens[:, None] * size + at[None, :]
        rows = tl.load(place, mask=inside[None, :], other=0)
        rows = tl.minimum(rows, closest[None, :])
        sums = tl.sum(_counted(rows, scale, UNIT), axis=1)
        total = tl.min(sums, axis=0)
        best = tl.min(tl.where(sums == total, trial, TRIALS), axis=0)
        tl.store(centres + step, tl.sum(tl.where(trial == best, tokens, 0), axis=0))
        closest = tl.sum(tl.where(trial[:, None] == best, rows, 0), axis=0)
        if not UNIT and total < _FEW:
            scale = _scale(closest)
            total = tl.sum(_counted(closest, scale, UNIT), axis=0)
        counts = _counted(closest, scale, UNIT)


@triton.jit(do_not_specialize=["clusters", "apart"])
def _nearest_kernel(
    pairs, centres, keys, size, clusters, apart,
    UNIT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """The first assignment of some tokens, to the nearest centres; those of two items are
    `apart`."""
    item = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    kind: tl.constexpr = keys.dtype.element_ty
    nearest = tl.full((ROWS,), _largest(kind), kind)
    for first in range(0, clusters, COLS):
        cols = first + tl.arange(0, COLS)
        centre = tl.load(centres + item * clusters + cols, mask=cols < clusters, other=0)
        place = pairs + item * size * size + centre[:, None] * size + rows[None, :]
        inside = (cols < clusters)[:, None] & (rows < size)[None, :]
        distance = _coarse(tl.load(place, mask=inside, other=0), UNIT)
        key = tl.where(inside, (distance << _LABEL_BITS) | cols[:, None], _largest(kind))
        nearest = tl.minimum(nearest, tl.min(key, axis=0))
    tl.store(keys + item * apart + rows, nearest, mask=rows < size)


@triton.jit
def _pairs_kernel(k, norms, pairs, size, count, UNIT: tl.constexpr, BLOCK: tl.constexpr):
    """Squared distances, those of unit tokens on the grid; zero between copies."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    product = tl.load(k + at, mask=at < count, other=1.0)
    if UNIT:
        distance = _whole(2.0 - 2.0 * product, tl.int32)
    else:
        row = tl.load(norms + at // size, mask=at < count, other=1.0)
        col = at // (size * size) * size + at % size
        both = row + tl.load(norms + col, mask=at < count, other=1.0)
        distance = both - 2.0 * product
        # a product of two long tokens errs by as much more as they are longer than the mean
        copies = distance * _GRID < 0.5 * tl.maximum(0.5 * both, 1.0)
        distance = tl.where(copies, 0.0, distance)
    tl.store(pairs + at, distance, mask=at < count)
