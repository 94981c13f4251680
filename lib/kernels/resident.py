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

from .common import _first_tie, _tile

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
    """What rows (P, E, W, C) of a table have above what is covered (P, W, C): sums (E, W)."""
    above = tl.maximum(table - covered[:, None, :, :], 0.0)
    return tl.sum(tl.sum(above, axis=0), axis=2)


@triton.jit
def _columns(begin, PARTS: tl.constexpr, TIMES: tl.constexpr, COLS: tl.constexpr):
    """Columns (P * TIMES, C) of a table, from `begin` on, each part of them so many times."""
    line = tl.arange(0, PARTS * TIMES)
    return begin + (line // TIMES * COLS)[:, None] + tl.arange(0, COLS)[None, :]


@triton.jit
def _rows(
    table, first, begin, size, width,
    PARTS: tl.constexpr, EACH: tl.constexpr, WARPS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Columns from `begin` on of a table's rows from `first` on, (P, E, W, C)."""
    line = tl.arange(0, PARTS * EACH * WARPS)
    row = first + line % WARPS * EACH + line // WARPS % EACH
    columns = _columns(begin, PARTS, EACH * WARPS, COLS)
    known = (row < size)[:, None] & (columns < width)
    values = tl.load(table + (row * width)[:, None] + columns, mask=known, other=0.0)
    return tl.reshape(values, (PARTS, EACH, WARPS, COLS))


@triton.jit
def _missing_in_parts(
    table, best, covered, first, size, width,
    PARTS: tl.constexpr, EACH: tl.constexpr, WARPS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """As `_missing`, from memory, once a pick's line has been added to what is covered."""
    missing = tl.zeros((EACH, WARPS), dtype=tl.float32)
    for begin in range(0, width, PARTS * COLS):
        columns = _columns(begin, PARTS, WARPS, COLS)
        most = tl.load(covered + columns, mask=columns < width, other=0.0)
        most = tl.maximum(most, tl.load(best + columns, mask=columns < width, other=0.0))
        tl.store(covered + columns, most, mask=columns < width)  # every warp the same
        values = _rows(table, first, begin, size, width, PARTS, EACH, WARPS, COLS)
        missing += _missing(values, tl.reshape(most, (PARTS, WARPS, COLS)))
    return missing


@triton.jit
def _shaped(x, TURNS: tl.constexpr, EACH: tl.constexpr, WARPS: tl.constexpr, LANES: tl.constexpr):
    """What was loaded in the order (T, W, E, L), as (T, E, W, L)."""
    return tl.permute(tl.reshape(x, (TURNS, WARPS, EACH, LANES)), (0, 2, 1, 3))


@triton.jit
def _cells(
    line, EACH: tl.constexpr, DEEP: tl.constexpr, WARPS: tl.constexpr, LANES: tl.constexpr,
    DEPTH: tl.constexpr,
):  # fmt: skip
    """Node, a program's own token and first pick of some of the lines (T * E * D * W * L,)."""
    node = line // (EACH * DEEP * WARPS * LANES) * LANES + line % LANES
    token = line // LANES % WARPS * EACH + line // (DEEP * WARPS * LANES) % EACH
    return node, token, line // (WARPS * LANES) % DEEP * DEPTH


@triton.jit
def _explain(row, pivot, theirs, done, rest, shift, depth, number):
    """Add a pick, the block's `number`-th, to the factors `done` (T, E, D, W, L, DEPTH) and take it
    off the pivots `rest` of a program's tokens; the third is the column (T, E, W, L) they add."""
    new = row - tl.sum(tl.sum(done * theirs, axis=5), axis=2)
    # no eigenvalue of K_S + t is below t, so no pivot is
    pivot = tl.maximum(pivot - tl.sum(tl.sum(theirs * theirs, axis=5), axis=2), shift)
    new *= tl.rsqrt(pivot)
    new = tl.where(new == new, new, 0.0)  # what is no number would be waited for
    done = tl.where(depth == number, new[:, :, None, :, :, None], done)
    return done, tl.maximum(rest - new * new, shift), new


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
    or 1, size, size), `far` from one node to the next, read on and below the diagonal; factor
    (items, size, nodes, DEEP * DEPTH); covered (items, programs, width). WIDE: the table is read
    for every pick, PARTS * COLS columns at once.

    A warp has EACH tokens, and works out what it needs of them alone: nodes are (T, E, W, L), turns
    and lanes of them and tokens and warps, factors (T, E, D, W, L, DEPTH), tables (P, E, W, COLS).
    So that Triton lays them out that way (3.6 to 3.9 do), all is loaded as lines, whose last ones
    are the lanes of a warp and the warps, and shaped then.
    """
    first = tl.program_id(0) * EACH * WARPS
    rows = first + tl.arange(0, WARPS)[None, :] * EACH + tl.arange(0, EACH)[:, None]
    here = rows < size
    at = tl.arange(0, BLOCK)
    inside = at < size
    # nodes in the order (T, W, E, L)
    cell = tl.arange(0, TURNS * WARPS * EACH * LANES)
    node = cell // (WARPS * EACH * LANES) * LANES + cell % LANES
    token = first + cell // (EACH * LANES) % WARPS * EACH + cell // LANES % EACH
    real = (node < nodes) & (token < size)
    known = _shaped(real, TURNS, EACH, WARPS, LANES)
    alike = tl.arange(0, TURNS)[:, None, None, None] * LANES + tl.arange(0, LANES)
    alike += tl.zeros((1, 1, WARPS, 1), dtype=tl.int32)  # nodes of all tokens, once a warp
    shift = tl.load(t + alike, mask=alike < nodes, other=1.0)
    weight = tl.load(w + alike, mask=alike < nodes, other=0.0)
    depth = tl.arange(0, DEPTH)[None, :]
    my_line = tl.arange(0, TURNS * EACH * DEEP * WARPS * LANES)
    my_node, my_token, my_pick = _cells(my_line, EACH, DEEP, WARPS, LANES, DEPTH)
    my_cell = (my_node < nodes) & (first + my_token < size)
    my_place = ((first + my_token) * nodes + my_node) * DEEP * DEPTH + my_pick
    # of a column, once for every thread that has it: (T, E, W, L, DEPTH / 4)
    HOLD: tl.constexpr = (DEPTH + 3) // 4
    column = tl.arange(0, TURNS * EACH * WARPS * LANES * HOLD)
    its_node, its_token, _ = _cells(column // HOLD, EACH, 1, WARPS, LANES, DEPTH)
    in_column = (its_node < nodes) & (first + its_token < size) & (column % HOLD == 0)
    column = ((first + its_token) * nodes + its_node) * DEEP * DEPTH
    their_line = tl.arange(0, TURNS * DEEP * WARPS * LANES)
    their_node, _, their_pick = _cells(their_line, 1, DEEP, WARPS, LANES, DEPTH)
    their_place = their_node * DEEP * DEPTH + their_pick
    number_of = (tl.arange(0, DEEP)[:, None] * DEPTH + depth)[None, None, :, None, None, :]
    columns = _columns(0, PARTS, WARPS, COLS)
    more = _columns(PARTS * COLS, MORE if MORE else 1, WARPS, COLS)
    # what a kind of choice has no use for is as small as can be
    rest = tl.zeros((TURNS, EACH, WARPS, LANES), dtype=tl.float32)
    whole = rest
    done = tl.zeros((TURNS, EACH, DEEP, WARPS, LANES, DEPTH), dtype=tl.float32)
    most = tl.zeros((PARTS * WARPS, COLS), dtype=tl.float32)
    most_2 = tl.zeros(more.shape, dtype=tl.float32)
    factor_of = tl.zeros((EACH, WARPS), dtype=tl.float32)
    values = tl.zeros((PARTS, EACH, WARPS, COLS), dtype=tl.float32)
    values_2 = tl.zeros((MORE if MORE else 1, EACH, WARPS, COLS), dtype=tl.float32)
    item = tl.program_id(1).to(tl.int64)
    while item < items:
        published = gains + item * picks * size
        base = tl.load(own + item * size + rows, mask=here, other=0.0)
        remains = left + item * tl.maximum(far * nodes, size * size)
        factors = factor + item * size * nodes * DEEP * DEPTH
        mine = factors + my_place[:, None] + depth
        before = pivots + item * nodes * size
        still = real
        if SPECTRAL:
            # what is left of others is not kept
            still = real & (tl.load(taken + item * size + token, mask=real, other=1) == 0)
            rest = tl.load(before + node * size + token, mask=real, other=1.0)
            rest = _shaped(rest, TURNS, EACH, WARPS, LANES)
            diagonal = matrix + item * size * size + token * (size + 1)
            diagonal = tl.load(diagonal, mask=real, other=1.0)
            diagonal = _shaped(diagonal, TURNS, EACH, WARPS, LANES)
            # exactly one where nothing is explained: the outermost weight is some 10^7
            whole = tl.where(known, diagonal + shift, 1.0)
            # absent, all of them: read to be laid out as those of others are
            done = tl.load(mine, mask=my_cell[:, None], other=0)
            done = tl.where(done == _ABSENT, 0.0, _numbers(done))
            done = tl.reshape(done, (TURNS, EACH, DEEP, WARPS, LANES, DEPTH))
        lines = table + item * size * width
        reached = covered + (item * tl.num_programs(0) + tl.program_id(0)) * width
        if COVER:
            factor_of = tl.load(scale + item * size + rows, mask=here, other=0.0)
            if not WIDE:
                values = _rows(lines, first, 0, size, width, PARTS, EACH, WARPS, COLS)
                most = tl.load(reached + columns, mask=columns < width, other=0.0)
                if MORE:
                    values_2 = _rows(
                        lines, first, PARTS * COLS, size, width, MORE, EACH, WARPS, COLS
                    )
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
                    picked = tl.load(best + columns, mask=columns < width, other=0.0)
                    if MORE:
                        picked_2 = tl.load(best + more, mask=more < width, other=0.0)
                if SPECTRAL:
                    number = step - begin
                    row = tl.maximum(pick, token) * size + tl.minimum(pick, token)
                    row = tl.load(remains + node * far + row, mask=still, other=0.0)
                    row = _shaped(row, TURNS, EACH, WARPS, LANES)
                    pivot = tl.load(before + alike * size + pick, mask=alike < nodes, other=1.0)
                    theirs = factors + (pick * nodes * DEEP * DEPTH + their_place)[:, None] + depth
                    needed = their_pick[:, None] + depth < number
                    theirs = _read(theirs, (their_node < nodes)[:, None], needed)
                    theirs = tl.reshape(theirs, (TURNS, 1, DEEP, WARPS, LANES, DEPTH))
                    done, rest, new = _explain(
                        row, pivot, theirs, done, rest, shift, number_of, number
                    )
                    new = tl.broadcast_to(new[:, :, :, :, None], (TURNS, EACH, WARPS, LANES, HOLD))
                    _publish(factors + column + number, tl.reshape(new, column.shape), in_column)
                    share = tl.where(known, tl.div_rn(rest, whole), 1.0)
                    gain += tl.sum(tl.sum(weight * tl.log(share), axis=3), axis=0)
                if COVER:
                    if WIDE:
                        uncovered = _missing_in_parts(
                            lines, best, reached, first, size, width, PARTS, EACH, WARPS, COLS
                        )
                    else:
                        most = tl.maximum(most, picked)
                        shaped = tl.reshape(most, (PARTS, WARPS, COLS))
                        uncovered = _missing(values, shaped)
                        if MORE:
                            most_2 = tl.maximum(most_2, picked_2)
                            shaped = tl.reshape(most_2, (MORE, WARPS, COLS))
                            uncovered += _missing(values_2, shaped)
                    gain += factor_of * uncovered
                if step + 1 >= ahead:  # the first of the lanes that all have it
                    least = tl.permute(tl.minimum(gain, _LARGEST), (1, 0))[None, :, :, None]
                    least = tl.broadcast_to(least, (TURNS, WARPS, EACH, LANES))
                    then = published + (step + 1) * size + token
                    _publish(then, tl.reshape(least, cell.shape), real & (node == 0))
        if end < picks:  # the others may yet read what was before
            if SPECTRAL:
                after = tl.reshape(tl.permute(rest, (0, 2, 1, 3)), cell.shape)
                tl.store(new_pivots + item * nodes * size + node * size + token, after, mask=real)
            if COVER and not WIDE:
                tl.store(reached + columns, most, mask=columns < width)
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
    """Take off what a block of picks explains, on and below the diagonal, where both tokens may yet
    be picked; clear the factors of the block before, for the next."""
    item = tl.program_id(2).to(tl.int64)
    node = tl.program_id(1)
    down, across = _tile(tl.program_id(0))
    rows = down * TILE + tl.arange(0, TILE)
    cols = across * TILE + tl.arange(0, TILE)
    depth = tl.arange(0, DEPTH)
    needed = rows < size
    inside = cols < size
    start = (item * size * nodes + node) * DEPTH
    if across == 0:
        place = other_factor + start + rows[:, None] * nodes * DEPTH + depth[None, :]
        tl.store(place, tl.full((TILE, DEPTH), _ABSENT, tl.int32), mask=needed[:, None])
    needed = needed & (tl.load(taken + item * size + rows, mask=needed, other=1) == 0)
    inside = inside & (tl.load(taken + item * size + cols, mask=inside, other=1) == 0)
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
