"""Kernels of greedy selection whose programs stay on the device for a block of picks.

The programs of an item keep what belongs to their own tokens in registers: what they are worth,
their rows of the Cholesky factors, and those of the table that is covered, if it is not too wide.
What they tell each other, the next gains and the new rows of the factors, is written into memory
that nothing was written into before, and read until it is there: a barrier with nothing to wait for
but the values themselves. That takes all programs of an item at work at once, which a cooperative
launch guarantees (`lib.kernels.blocks`).
"""

from __future__ import annotations

import triton
import triton.language as tl

from .common import _first_tie

#: the bits of what has not been written: of no number, and of no NaN that arithmetic makes
_ABSENT = tl.constexpr(-1)
_LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit
def _extremes(high, low, other_high, other_low):
    return tl.maximum(high, other_high), tl.minimum(low, other_low)


@triton.jit
def _numbers(bits):
    """What the bits of numbers of single or double precision stand for."""
    return bits.to(tl.float64 if bits.dtype == tl.int64 else tl.float32, bitcast=True)


@triton.jit
def _pick(gains, free, inside, at, size):
    """As `lib.kernels.greedy._best`, once all gains are there."""
    bits = tl.zeros(at.shape, dtype=gains.dtype.element_ty)
    gain = _numbers(bits)
    low = tl.min(gain, axis=0)
    high = low + float("inf")
    while high == float("inf"):  # what is published is finite
        bits = tl.load(gains + at, mask=inside, other=0, volatile=True)
        gain = _numbers(bits)
        most = tl.where(bits == _ABSENT, float("inf"), tl.where(free, gain, -float("inf")))
        high, low = tl.reduce((most, tl.where(free, gain, float("inf"))), 0, _extremes)
    return _first_tie(gain, free, high, low, at, size)


@triton.jit
def _read(place, mask):
    """Published numbers, once they are there."""
    bits = tl.load(place, mask=mask, other=0, volatile=True)
    while tl.max((bits == _ABSENT).to(tl.int32)) > 0:
        bits = tl.load(place, mask=mask, other=0, volatile=True)
    return _numbers(bits)


@triton.jit
def _publish(place, values, mask):
    bits = values.to(tl.int64 if values.dtype == tl.float64 else tl.int32, bitcast=True)
    tl.store(place, bits, mask=mask, cache_modifier=".cg")


@triton.jit
def _missing(table, covered):
    return tl.sum(tl.maximum(table - covered[None, :], 0.0), axis=1)


@triton.jit
def _missing_in_parts(lines, best, covered, here, width, ROWS: tl.constexpr, COLS: tl.constexpr):
    """As `_missing`, from memory, once a pick's line has been added to what is covered."""
    cols = tl.arange(0, COLS)
    missing = tl.zeros((ROWS, COLS), dtype=tl.float32)
    for start in range(0, width, COLS):
        part = start + cols
        known = part < width
        most = tl.load(covered + part, mask=known, other=0.0)
        most = tl.maximum(most, tl.load(best + part, mask=known, other=0.0))
        tl.store(covered + part, most, mask=known)
        place = lines[:, None] + part[None, :]
        values = tl.load(place, mask=here[:, None] & known[None, :], other=0.0)
        missing += tl.maximum(values - most[None, :], 0.0)
    return tl.sum(missing, axis=1)


@triton.jit
def _explain(
    left, far, factor, pivots, done, rest, shift, pick, number, rows, here, real, size, nodes,
    NODES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Add a pick, the block's `number`-th, to the factors (NODES, ROWS, DEPTH) and take it off the
    pivots (NODES, ROWS) of a program's tokens."""
    node = tl.arange(0, NODES)
    depth = tl.arange(0, DEPTH)
    cell = real[:, None] & here[None, :]
    row = left + node[:, None] * far + pick * size + rows[None, :]
    row = tl.load(row, mask=cell, other=0.0)
    pivot = tl.load(pivots + node * size + pick, mask=real, other=1.0)
    theirs = factor + (pick * nodes + node)[:, None] * DEPTH + depth[None, :]
    theirs = _read(theirs, real[:, None] & (depth < number)[None, :])
    new = row - tl.sum(done * theirs[:, None, :], axis=2)
    # no eigenvalue of K_S + t is below t, so no pivot is
    pivot = tl.maximum(pivot - tl.sum(theirs * theirs, axis=1), shift)
    new *= tl.rsqrt(pivot)[:, None]
    new = tl.where(new == new, new, 0.0)  # what is no number would be waited for
    _publish(factor + (rows[None, :] * nodes + node[:, None]) * DEPTH + number, new, cell)
    done = tl.where((depth == number)[None, None, :], new[:, :, None], done)
    return done, tl.maximum(rest - new * new, shift[:, None])


@triton.jit(do_not_specialize=["far", "items", "begin", "end", "picks", "ahead"])
def _resident_kernel(
    matrix, left, far, t, w, factor, pivots, new_pivots, table, scale, covered, own, gains, taken,
    new_taken, order, items, size, width, nodes, begin, end, picks, ahead,
    SPECTRAL: tl.constexpr, COVER: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr, NODES: tl.constexpr, DEPTH: tl.constexpr, COLS: tl.constexpr,
    MORE: tl.constexpr,
):  # fmt: skip
    """Picks begin … end - 1 of every `num_programs(1)`-th item.

    gains (items, picks, size) are those of every pick, at first the given ones; left (items, nodes
    or 1, size, size), `far` from one node to the next; factor (items, size, nodes, DEPTH); covered
    (items, programs, width). WIDE: the table is read for every pick, COLS columns at once.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    here = rows < size
    at = tl.arange(0, BLOCK)
    inside = at < size
    cols = tl.arange(0, COLS)
    more = COLS + tl.arange(0, MORE if MORE else 1)
    node = tl.arange(0, NODES)
    real = node < nodes
    shift = tl.load(t + node, mask=real, other=1.0)
    weight = tl.load(w + node, mask=real, other=0.0)
    cell = real[:, None] & here[None, :]
    place = node[:, None] * size + rows[None, :]
    # what a kind of choice has no use for is as small as can be
    rest = tl.zeros((NODES, ROWS), dtype=tl.float32)
    whole = rest
    done = tl.zeros((NODES, ROWS, DEPTH), dtype=tl.float32)
    most = tl.zeros((COLS,), dtype=tl.float32)
    most_2 = tl.zeros(more.shape, dtype=tl.float32)
    factor_of = tl.zeros((ROWS,), dtype=tl.float32)
    values = tl.zeros((ROWS, COLS), dtype=tl.float32)
    values_2 = tl.zeros((ROWS, MORE if MORE else 1), dtype=tl.float32)
    item = tl.program_id(1).to(tl.int64)
    while item < items:
        published = gains + item * picks * size
        base = tl.load(own + item * size + rows, mask=here, other=0.0)
        remains = left + item * tl.maximum(far * nodes, size * size)
        factors = factor + item * size * nodes * DEPTH
        before = pivots + item * nodes * size
        if SPECTRAL:
            rest = tl.load(before + place, mask=cell, other=1.0)
            diagonal = matrix + item * size * size + rows * (size + 1)
            diagonal = tl.load(diagonal, mask=here, other=1.0)
            # exactly one where nothing is explained: the outermost weight is some 10^7
            whole = tl.where(cell, diagonal[None, :] + shift[:, None], 1.0)
            done = tl.zeros((NODES, ROWS, DEPTH), dtype=tl.float32)
        mine = table + item * size * width
        lines = mine + rows * width
        reached = covered + (item * tl.num_programs(0) + tl.program_id(0)) * width
        if COVER:
            factor_of = tl.load(scale + item * size + rows, mask=here, other=0.0)
            if not WIDE:
                known = here[:, None] & (cols < width)[None, :]
                values = tl.load(lines[:, None] + cols[None, :], mask=known, other=0.0)
                most = tl.load(reached + cols, mask=cols < width, other=0.0)
                known = here[:, None] & (more < width)[None, :]
                values_2 = tl.load(lines[:, None] + more[None, :], mask=known, other=0.0)
                most_2 = tl.load(reached + more, mask=more < width, other=0.0)
        free = inside & (tl.load(taken + item * size + at, mask=inside, other=1) == 0)
        for step in range(begin, end):
            pick = _pick(published + step * size, free, inside, at, size)
            free = free & (at != pick)
            if tl.program_id(0) == 0:
                tl.store(order + item * picks + step, pick)
            if step + 1 < picks:
                gain = base
                best = mine + pick * width
                picked = most
                picked_2 = most_2
                if COVER and not WIDE:  # on its way while the entropy is worked out
                    picked = tl.load(best + cols, mask=cols < width, other=0.0)
                    picked_2 = tl.load(best + more, mask=more < width, other=0.0)
                if SPECTRAL:
                    done, rest = _explain(
                        remains, far, factors, before, done, rest, shift, pick, step - begin,
                        rows, here, real, size, nodes, NODES, DEPTH,
                    )  # fmt: skip
                    share = tl.where(cell, tl.div_rn(rest, whole), 1.0)
                    gain += tl.sum(weight[:, None] * tl.log(share), axis=0)
                if COVER:
                    if WIDE:
                        uncovered = _missing_in_parts(lines, best, reached, here, width, ROWS, COLS)
                    else:
                        most = tl.maximum(most, picked)
                        uncovered = _missing(values, most)
                        if MORE:
                            most_2 = tl.maximum(most_2, picked_2)
                            uncovered += _missing(values_2, most_2)
                    gain += factor_of * uncovered
                if step + 1 >= ahead:
                    then = published + (step + 1) * size + rows
                    _publish(then, tl.minimum(gain, _LARGEST), here)
        if end < picks:  # the others may yet read what was before
            if SPECTRAL:
                tl.store(new_pivots + item * nodes * size + place, rest, mask=cell)
            if COVER and not WIDE:
                tl.store(reached + cols, most, mask=cols < width)
                if MORE:
                    tl.store(reached + more, most_2, mask=more < width)
            if tl.program_id(0) == 0:
                now_taken = tl.where(free, 0, 1).to(tl.int8)
                tl.store(new_taken + item * size + at, now_taken, mask=inside)
        item += tl.num_programs(1)


@triton.jit(do_not_specialize=["far"])
def _left_kernel(
    left, far, factor, other_factor, taken, new_left, size, nodes,
    TILE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Take off what a block of picks explains, in the rows of tokens that may yet be picked; clear
    the factors of the block before, for the next."""
    item = tl.program_id(2).to(tl.int64)
    node = tl.program_id(1)
    across = tl.cdiv(size, TILE)
    rows = tl.program_id(0) // across * TILE + tl.arange(0, TILE)
    cols = tl.program_id(0) % across * TILE + tl.arange(0, TILE)
    depth = tl.arange(0, DEPTH)
    needed = rows < size
    inside = cols < size
    start = (item * size * nodes + node) * DEPTH
    if tl.program_id(0) % across == 0:
        place = other_factor + start + rows[:, None] * nodes * DEPTH + depth[None, :]
        tl.store(place, tl.full((TILE, DEPTH), _ABSENT, tl.int32), mask=needed[:, None])
    needed = needed & (tl.load(taken + item * size + rows, mask=needed, other=1) == 0)
    mine = factor + start + rows[:, None] * nodes * DEPTH + depth[None, :]
    mine = tl.load(mine, mask=needed[:, None], other=0).to(tl.float32, bitcast=True)
    theirs = factor + start + cols[None, :] * nodes * DEPTH + depth[:, None]
    theirs = tl.load(theirs, mask=inside[None, :], other=0).to(tl.float32, bitcast=True)
    place = rows[:, None] * size + cols[None, :]
    known = needed[:, None] & inside[None, :]
    left += item * tl.maximum(far * nodes, size * size) + node.to(tl.int64) * far
    values = tl.load(left + place, mask=known, other=0.0)
    # three products of halves: 22 bits, of the 24 that one of float32 would round to
    values -= tl.dot(mine, theirs, input_precision="tf32x3")
    tl.store(new_left + (item * nodes + node) * size * size + place, values, mask=known)
