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
def _read(place, mask, needed):
    """Published numbers of `needed`, once they are there, and zeros. All of `mask` is read: a mask
    that ends amid four numbers would make four loads of one, of lines that every program wants."""
    bits = tl.load(place, mask=mask, other=0, volatile=True)
    while tl.max((needed & (bits == _ABSENT)).to(tl.int32)) > 0:
        bits = tl.load(place, mask=mask, other=0, volatile=True)
    return tl.where(needed, _numbers(bits), 0.0)


@triton.jit
def _publish(place, values, mask):
    bits = values.to(tl.int64 if values.dtype == tl.float64 else tl.int32, bitcast=True)
    tl.store(place, bits, mask=mask, cache_modifier=".cg")


@triton.jit
def _missing(table, covered):
    """What rows (W, P, E, C) of a table have above what is covered (W, P, C): sums (W, E)."""
    above = tl.maximum(table - covered[:, :, None, :], 0.0)
    return tl.sum(tl.sum(above, axis=1), axis=2)


@triton.jit
def _missing_in_parts(lines, best, covered, here, cols, width):
    """As `_missing`, from memory, once a pick's line has been added to what is covered."""
    missing = tl.zeros(here.shape, dtype=tl.float32)
    for start in range(0, width, cols.shape[1] * cols.shape[2]):
        part = start + cols
        known = part < width
        most = tl.load(covered + part, mask=known, other=0.0)
        most = tl.maximum(most, tl.load(best + part, mask=known, other=0.0))
        tl.store(covered + part, most, mask=known)  # every warp the same
        place = lines[:, None, :, None] + part[:, :, None, :]
        known = here[:, None, :, None] & known[:, :, None, :]
        missing += _missing(tl.load(place, mask=known, other=0.0), most)
    return missing


@triton.jit
def _explain(
    remains, factors, pivots, own, done, rest, shift, pick, number, node, cell, depth, nodes
):  # fmt: skip
    """Add a pick, the block's `number`-th, to the factors and take it off the pivots of a program's
    tokens; what is `own` of those in the factors. Shapes as in `_resident_kernel`."""
    DEPTH: tl.constexpr = depth.shape[4] * depth.shape[5]
    row = tl.load(remains, mask=cell, other=0.0)
    known = node < nodes
    pivot = tl.load(pivots + pick, mask=known, other=1.0)
    theirs = factors + ((pick * nodes + node) * DEPTH)[:, :, :, :, None, None] + depth
    theirs = _read(theirs, known[:, :, :, :, None, None], depth < number)
    new = row - tl.sum(tl.sum(done * theirs, axis=5), axis=4)
    # no eigenvalue of K_S + t is below t, so no pivot is
    pivot = tl.maximum(pivot - tl.sum(tl.sum(theirs * theirs, axis=5), axis=4), shift)
    new *= tl.rsqrt(pivot)
    new = tl.where(new == new, new, 0.0)  # what is no number would be waited for
    done = tl.where(depth == number, new[:, :, :, :, None, None], done)
    _publish(own, done, cell[:, :, :, :, None, None] & (depth == number))
    return done, tl.maximum(rest - new * new, shift)


@triton.jit(do_not_specialize=["far", "items", "begin", "end", "picks", "ahead"])
def _resident_kernel(
    matrix, left, far, t, w, factor, pivots, new_pivots, table, scale, covered, own, gains, taken,
    new_taken, order, items, size, width, nodes, begin, end, picks, ahead,
    SPECTRAL: tl.constexpr, COVER: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
    WARPS: tl.constexpr, EACH: tl.constexpr, LANES: tl.constexpr, TURNS: tl.constexpr,
    DEPTH: tl.constexpr, DEEP: tl.constexpr, PARTS: tl.constexpr, MORE: tl.constexpr,
    COLS: tl.constexpr,
):  # fmt: skip
    """Picks begin … end - 1 of every `num_programs(1)`-th item.

    gains (items, picks, size) are those of every pick, at first the given ones; left (items, nodes
    or 1, size, size), `far` from one node to the next; factor (items, size, nodes, DEEP * DEPTH);
    covered (items, programs, width). WIDE: the table is read for every pick, PARTS * COLS columns
    at once.

    A warp has EACH tokens, and what it works out of them needs no other: (LANES, WARPS, TURNS,
    EACH, DEEP, DEPTH) are nodes, tokens and picks, (WARPS, PARTS, EACH, COLS) tokens and columns,
    so ordered that Triton gives every warp its own.
    """
    warp, each = tl.arange(0, WARPS), tl.arange(0, EACH)
    rows = (tl.program_id(0) * WARPS + warp[:, None]) * EACH + each[None, :]
    here = rows < size
    at = tl.arange(0, BLOCK)
    inside = at < size
    # whole in the dimension of the warps: what they read alike each of them reads
    spread = tl.zeros((1, WARPS, 1, 1), dtype=tl.int32)
    lane, turn = tl.arange(0, LANES), tl.arange(0, TURNS)
    node = lane[:, None, None, None] + LANES * turn[None, None, :, None] + spread
    # no two numbers at once: a warp would have half of the nodes, and more of the tokens
    token = tl.multiple_of(rows[None, :, None, :], [1, 1, 1, 1])
    cell = (node < nodes) & here[None, :, None, :]
    shift = tl.load(t + node, mask=node < nodes, other=1.0)
    weight = tl.load(w + node, mask=node < nodes, other=0.0)
    depth = tl.arange(0, DEEP)[:, None] * DEPTH + tl.arange(0, DEPTH)[None, :]
    depth = depth[None, None, None, None, :, :]
    cols = tl.arange(0, PARTS)[:, None] * COLS + tl.arange(0, COLS)[None, :]
    cols = cols[None, :, :] + tl.zeros((WARPS, 1, 1), dtype=tl.int32)
    more = tl.arange(0, MORE if MORE else 1)[:, None] * COLS + tl.arange(0, COLS)[None, :]
    more = PARTS * COLS + more[None, :, :] + tl.zeros((WARPS, 1, 1), dtype=tl.int32)
    # what a kind of choice has no use for is as small as can be
    rest = tl.zeros((LANES, WARPS, TURNS, EACH), dtype=tl.float32)
    whole = rest
    done = tl.zeros((LANES, WARPS, TURNS, EACH, DEEP, DEPTH), dtype=tl.float32)
    most = tl.zeros((WARPS, PARTS, COLS), dtype=tl.float32)
    most_2 = tl.zeros(more.shape, dtype=tl.float32)
    factor_of = tl.zeros((WARPS, EACH), dtype=tl.float32)
    values = tl.zeros((WARPS, PARTS, EACH, COLS), dtype=tl.float32)
    values_2 = tl.zeros((WARPS, MORE if MORE else 1, EACH, COLS), dtype=tl.float32)
    item = tl.program_id(1).to(tl.int64)
    while item < items:
        published = gains + item * picks * size
        base = tl.load(own + item * size + rows, mask=here, other=0.0)
        remains = left + item * tl.maximum(far * nodes, size * size) + node * far + token
        factors = factor + item * size * nodes * DEEP * DEPTH
        mine = factors + ((token * nodes + node) * DEEP * DEPTH)[:, :, :, :, None, None] + depth
        before = pivots + item * nodes * size + node * size
        if SPECTRAL:
            rest = tl.load(before + token, mask=cell, other=1.0)
            diagonal = matrix + item * size * size + token * (size + 1)
            diagonal = tl.load(diagonal, mask=here[None, :, None, :], other=1.0)
            # exactly one where nothing is explained: the outermost weight is some 10^7
            whole = tl.where(cell, diagonal + shift, 1.0)
            # absent, all of them: read for Triton to lay them out as it does those of others
            done = tl.load(mine, mask=cell[:, :, :, :, None, None], other=0)
            done = tl.where(done == _ABSENT, 0.0, _numbers(done))
        lines = table + item * size * width
        reached = covered + (item * tl.num_programs(0) + tl.program_id(0)) * width
        if COVER:
            factor_of = tl.load(scale + item * size + rows, mask=here, other=0.0)
            if not WIDE:
                line = (lines + rows * width)[:, None, :, None]
                known = here[:, None, :, None] & (cols < width)[:, :, None, :]
                values = tl.load(line + cols[:, :, None, :], mask=known, other=0.0)
                most = tl.load(reached + cols, mask=cols < width, other=0.0)
                if MORE:
                    known = here[:, None, :, None] & (more < width)[:, :, None, :]
                    values_2 = tl.load(line + more[:, :, None, :], mask=known, other=0.0)
                    most_2 = tl.load(reached + more, mask=more < width, other=0.0)
        free = inside & (tl.load(taken + item * size + at, mask=inside, other=1) == 0)
        for step in range(begin, end):
            pick = _pick(published + step * size, free, inside, at, size)
            free = free & (at != pick)
            if tl.program_id(0) == 0:
                tl.store(order + item * picks + step, pick)
            if step + 1 < picks:
                gain = base
                best = lines + pick * width
                picked = most
                picked_2 = most_2
                if COVER and not WIDE:  # on its way while the entropy is worked out
                    picked = tl.load(best + cols, mask=cols < width, other=0.0)
                    if MORE:
                        picked_2 = tl.load(best + more, mask=more < width, other=0.0)
                if SPECTRAL:
                    done, rest = _explain(
                        remains + pick * size, factors, before, mine, done, rest, shift, pick,
                        step - begin, node, cell, depth, nodes,
                    )  # fmt: skip
                    share = tl.where(cell, tl.div_rn(rest, whole), 1.0)
                    gain += tl.sum(tl.sum(weight * tl.log(share), axis=2), axis=0)
                if COVER:
                    if WIDE:
                        uncovered = _missing_in_parts(lines + rows * width, best, reached, here,
                                                      cols, width)  # fmt: skip
                    else:
                        most = tl.maximum(most, picked)
                        uncovered = _missing(values, most)
                        if MORE:
                            most_2 = tl.maximum(most_2, picked_2)
                            uncovered += _missing(values_2, most_2)
                    gain += factor_of * uncovered
                if step + 1 >= ahead:  # the first of the lanes that all have it
                    then = published + (step + 1) * size + token + tl.zeros_like(node)
                    least = tl.minimum(gain, _LARGEST)[None, :, None, :]
                    _publish(then, tl.broadcast_to(least, then.shape), cell & (node == 0))
        if end < picks:  # the others may yet read what was before
            if SPECTRAL:
                after = new_pivots + item * nodes * size + node * size + token
                tl.store(after, rest, mask=cell)
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
