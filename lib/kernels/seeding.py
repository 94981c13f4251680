"""Greedy k-means++ of tokens from their Gram matrix, and the first assignment."""

from __future__ import annotations

import triton
import triton.language as tl

from .common import _GRID
from .lloyd import _LABEL_BITS, _whole

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
def _scale(total):
    """The power of two, for equal sums to stay equal, that makes a sum of distances some 2^30."""
    times = _SUM / tl.where(total > 0, total, _SUM)
    return ((times.to(tl.int32, bitcast=True) >> 23) << 23).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["clusters", "per_item", "apart"])
def _seed_kernel(
    pairs, uniforms, keys, size, clusters, per_item, apart,
    UNIT: tl.constexpr, TRIALS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Greedy k-means++ of one item from its squared distances, and the first assignment; those of
    two items are `apart`."""
    item = tl.program_id(0).to(tl.int64)
    pairs += item * size * size
    uniforms += item * per_item
    at = tl.arange(0, BLOCK)
    inside = at < size
    trial = tl.arange(0, TRIALS)
    centre = tl.minimum((tl.load(uniforms) * size).to(tl.int32), size - 1)
    closest = tl.load(pairs + centre * size + at, mask=inside, other=0)
    scale = 1.0 if UNIT else _scale(tl.sum(closest, axis=0))
    counts = _counted(closest, scale, UNIT)
    total = tl.sum(counts, axis=0)
    label = tl.zeros((BLOCK,), dtype=tl.int32)
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
        chosen = tl.sum(tl.where(trial[:, None] == best, rows, 0), axis=0)
        label = tl.where(_coarse(chosen, UNIT) < _coarse(closest, UNIT), step, label)
        closest = chosen
        if not UNIT and total < _FEW:
            scale = _scale(tl.sum(closest, axis=0))
            total = tl.sum(_counted(closest, scale, UNIT), axis=0)
        counts = _counted(closest, scale, UNIT)
    key = (_coarse(closest, UNIT) << _LABEL_BITS) | label
    tl.store(keys + item * apart + at, key, mask=inside)


@triton.jit
def _total(closest, scale, size, COLS: tl.constexpr):
    """The sum of an item's counted distances."""
    total = tl.zeros((COLS,), dtype=tl.int32)
    for start in range(0, size, COLS):
        at = start + tl.arange(0, COLS)
        total += _counted(tl.load(closest + at, mask=at < size, other=0.0), scale, False)
    return tl.sum(total, axis=0)


@triton.jit(do_not_specialize=["clusters", "per_item", "apart"])
def _seed_many_kernel(
    pairs, uniforms, keys, closest, size, clusters, per_item, apart,
    TRIALS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """As `_seed_kernel`, of more tokens as they are than registers hold: COLS at a time.

    closest (items, size), float32, is written.
    """
    item = tl.program_id(0).to(tl.int64)
    pairs += item * size * size
    uniforms += item * per_item
    closest += item * size
    keys += item * apart
    trial = tl.arange(0, TRIALS)
    centre = tl.minimum((tl.load(uniforms) * size).to(tl.int32), size - 1)
    whole = tl.zeros((COLS,), dtype=tl.float32)
    for start in range(0, size, COLS):
        at = start + tl.arange(0, COLS)
        distance = tl.load(pairs + centre * size + at, mask=at < size, other=0.0)
        tl.store(closest + at, distance, mask=at < size)
        tl.store(keys + at, tl.zeros((COLS,), dtype=tl.int64), mask=at < size)
        whole += distance
    tl.debug_barrier()
    scale = _scale(tl.sum(whole, axis=0))
    total = _total(closest, scale, size, COLS)
    for step in range(1, clusters):
        share = tl.load(uniforms + step * TRIALS + trial)
        target = (share * total.to(tl.float64)).to(tl.int32)
        tokens = tl.zeros((TRIALS,), dtype=tl.int32)
        before = total * 0
        for start in range(0, size, COLS):
            at = start + tl.arange(0, COLS)
            counts = _counted(tl.load(closest + at, mask=at < size, other=0.0), scale, False)
            # beyond the last token the sum stays at the total, which no target reaches
            below = (before + tl.cumsum(counts, axis=0))[None, :] <= target[:, None]
            tokens += tl.sum(below.to(tl.int32), axis=1)
            before += tl.sum(counts, axis=0)
        tokens = tl.minimum(tokens, size - 1)
        sums = tl.zeros((TRIALS,), dtype=tl.int32)
        for start in range(0, size, COLS):
            at = start + tl.arange(0, COLS)
            inside = (at < size)[None, :]
            rows = tl.load(pairs + tokens[:, None] * size + at[None, :], mask=inside, other=0.0)
            near = tl.load(closest + at, mask=at < size, other=0.0)
            sums += tl.sum(_counted(tl.minimum(rows, near[None, :]), scale, False), axis=1)
        total = tl.min(sums, axis=0)
        best = tl.min(tl.where(sums == total, trial, TRIALS), axis=0)
        token = tl.sum(tl.where(trial == best, tokens, 0), axis=0)
        tl.debug_barrier()  # all have read what is overwritten here
        whole = tl.zeros((COLS,), dtype=tl.float32)
        for start in range(0, size, COLS):
            at = start + tl.arange(0, COLS)
            near = tl.load(closest + at, mask=at < size, other=0.0)
            chosen = tl.load(pairs + token * size + at, mask=at < size, other=0.0)
            chosen = tl.minimum(chosen, near)
            moved = (at < size) & (_coarse(chosen, False) < _coarse(near, False))
            tl.store(keys + at, tl.zeros((COLS,), dtype=tl.int64) + step, mask=moved)
            tl.store(closest + at, chosen, mask=at < size)
            whole += chosen
        tl.debug_barrier()
        if total < _FEW:
            scale = _scale(tl.sum(whole, axis=0))
            total = _total(closest, scale, size, COLS)
    for start in range(0, size, COLS):
        at = start + tl.arange(0, COLS)
        near = tl.load(closest + at, mask=at < size, other=0.0)
        label = tl.load(keys + at, mask=at < size, other=0)
        tl.store(keys + at, (_coarse(near, False) << _LABEL_BITS) | label, mask=at < size)


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
