"""Greedy forward selection in blocks of picks, each in one launch.

The programs of an item keep what belongs to their own tokens in registers: rows of the table that
is covered, and of the Cholesky factors. What they tell each other, the next gains and the new rows
of the factors, is written into memory that nothing was written into before, and read until it is
there: a barrier with nothing to wait for but the values themselves. That takes all programs of an
item at work at once, which a cooperative launch guarantees.

By coverage alone all picks are one block. The entropy needs, of every node, a row of what the kept
tokens leave unexplained: what a block explains is taken off by one launch over the whole matrix
after it, and what the block itself has explained so far by every program. What does not fit is left
to `lib.kernels.greedy`, a launch a pick.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import _first_tie

#: the bits of what has not been written: of no number, and of no NaN that arithmetic makes
_ABSENT = tl.constexpr(-1)
_LARGEST = tl.constexpr(3.4028234663852886e38)
#: rows of a program; like all that follows the same for every batch: sums are taken in one order
_ROWS = 16
#: warps of a program, and registers of a thread, without the entropy and with it
_WARPS = 8, 4
#: registers of a thread where all items are at work at once, and else: they change no number
_REGISTERS = (128, 255), (128, 168)
#: columns of a table whose rows fit into them
_WIDEST = 1024
#: picks of a block, and the order of the tiles that are brought up to date after it
_PICKS, _TILE = 16, 64
#: numbers of matrices and factors that are held at once: more items take turns
_HELD = 1 << 28


@triton.jit
def _extremes(high, low, other_high, other_low):
    return tl.maximum(high, other_high), tl.minimum(low, other_low)


@triton.jit
def _pick(gains, free, inside, at, size):
    """As `lib.kernels.greedy._best`, once all gains are there."""
    high = float("inf")
    low = 0.0
    gain = tl.zeros(at.shape, dtype=tl.float32)
    while high == float("inf"):  # what is published is finite
        bits = tl.load(gains + at, mask=inside, other=0, volatile=True)
        gain = bits.to(tl.float32, bitcast=True)
        most = tl.where(bits == _ABSENT, float("inf"), tl.where(free, gain, -float("inf")))
        high, low = tl.reduce((most, tl.where(free, gain, float("inf"))), 0, _extremes)
    return _first_tie(gain, free, high, low, at, size)


@triton.jit
def _read(place, mask):
    """Published numbers, once they are there."""
    bits = tl.load(place, mask=mask, other=0, volatile=True)
    while tl.max((bits == _ABSENT).to(tl.int32)) > 0:
        bits = tl.load(place, mask=mask, other=0, volatile=True)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _publish(place, values, mask):
    tl.store(place, values.to(tl.int32, bitcast=True), mask=mask, cache_modifier=".cg")


@triton.jit
def _missing(table, covered):
    return tl.sum(tl.maximum(table - covered[None, :], 0.0), axis=1)


@triton.jit(do_not_specialize=["far", "items", "begin", "end", "picks", "ahead"])
def _resident_kernel(
    matrix, left, far, t, w, factor, pivots, new_pivots, table, scale, covered, own, gains, taken,
    order, items, size, width, nodes, begin, end, picks, ahead,
    SPECTRAL: tl.constexpr, COVER: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
    NODES: tl.constexpr, DEPTH: tl.constexpr, COLS: tl.constexpr, MORE: tl.constexpr,
):  # fmt: skip
    """Picks begin … end - 1 of every `num_programs(1)`-th item.

    gains (items, picks, size) are those of every pick, at first the given ones; left (items, nodes
    or 1, size, size), `far` from one node to the next; factor (items, size, nodes, DEPTH).
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    here = rows < size
    at = tl.arange(0, BLOCK)
    inside = at < size
    cols = tl.arange(0, COLS)
    more = COLS + tl.arange(0, MORE if MORE else 1)
    node = tl.arange(0, NODES)
    real = node < nodes
    depth = tl.arange(0, DEPTH)
    shift = tl.load(t + node, mask=real, other=1.0)
    weight = tl.load(w + node, mask=real, other=0.0)
    cell = real[:, None] & here[None, :]
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
        place = node[:, None] * size + rows[None, :]
        if SPECTRAL:
            rest = tl.load(before + place, mask=cell, other=1.0)
            diagonal = tl.load(
                matrix + item * size * size + rows * (size + 1), mask=here, other=1.0
            )
            # exactly one where nothing is explained: the outermost weight is some 10^7
            whole = tl.where(cell, diagonal[None, :] + shift[:, None], 1.0)
            done = tl.zeros((NODES, ROWS, DEPTH), dtype=tl.float32)
        mine = table + item * size * width
        if COVER:
            factor_of = tl.load(scale + item * size + rows, mask=here, other=0.0)
            line = mine + rows[:, None] * width
            known = here[:, None] & (cols < width)[None, :]
            values = tl.load(line + cols[None, :], mask=known, other=0.0)
            most = tl.load(covered + item * width + cols, mask=cols < width, other=0.0)
            known = here[:, None] & (more < width)[None, :]
            values_2 = tl.load(line + more[None, :], mask=known, other=0.0)
            most_2 = tl.load(covered + item * width + more, mask=more < width, other=0.0)
        free = inside & (tl.load(taken + item * size + at, mask=inside, other=1) == 0)
        for step in range(begin, end):
            pick = _pick(published + step * size, free, inside, at, size)
            free = free & (at != pick)
            if tl.program_id(0) == 0:
                tl.store(order + item * picks + step, pick)
            if step + 1 < picks:
                gain = base
                picked = most
                picked_2 = most_2
                if COVER:  # on its way while the entropy is worked out
                    best = mine + pick * width
                    picked = tl.load(best + cols, mask=cols < width, other=0.0)
                    picked_2 = tl.load(best + more, mask=more < width, other=0.0)
                if SPECTRAL:
                    row = remains + node[:, None] * far + pick * size + rows[None, :]
                    row = tl.load(row, mask=cell, other=0.0)
                    pivot = tl.load(before + node * size + pick, mask=real, other=1.0)
                    its = factors + (pick * nodes + node)[:, None] * DEPTH + depth[None, :]
                    written = real[:, None] & (depth < step - begin)[None, :]
                    theirs = _read(its, written)
                    explained = tl.sum(theirs * theirs, axis=1)
                    new = row - tl.sum(done * theirs[:, None, :], axis=2)
                    # no eigenvalue of K_S + t is below t, so no pivot is
                    new *= tl.rsqrt(tl.maximum(pivot - explained, shift))[:, None]
                    new = tl.where(new == new, new, 0.0)  # what is no number would be waited for
                    mine_at = factors + (rows[None, :] * nodes + node[:, None]) * DEPTH
                    _publish(mine_at + (step - begin), new, cell)
                    done = tl.where((depth == step - begin)[None, None, :], new[:, :, None], done)
                    rest = tl.maximum(rest - new * new, shift[:, None])
                    share = tl.where(cell, tl.div_rn(rest, whole), 1.0)
                    gain += tl.sum(weight[:, None] * tl.log(share), axis=0)
                if COVER:
                    most = tl.maximum(most, picked)
                    uncovered = _missing(values, most)
                    if MORE:
                        most_2 = tl.maximum(most_2, picked_2)
                        uncovered += _missing(values_2, most_2)
                    gain += factor_of * uncovered
                if step + 1 >= ahead:
                    then = published + (step + 1) * size + rows
                    _publish(then, tl.minimum(gain, _LARGEST), here)
        if end < picks:
            if SPECTRAL:  # the others may yet read what was before
                tl.store(new_pivots + item * nodes * size + place, rest, mask=cell)
            if tl.program_id(0) == 0:  # the others have long read it: their gains are here
                tl.store(taken + item * size + at, tl.where(free, 0, 1).to(tl.int8), mask=inside)
                if COVER:
                    tl.store(covered + item * width + cols, most, mask=cols < width)
                    if MORE:
                        tl.store(covered + item * width + more, most_2, mask=more < width)
        item += tl.num_programs(1)


@triton.jit(do_not_specialize=["far"])
def _left_kernel(
    left, far, factor, taken, new_left, size, nodes, TILE: tl.constexpr, DEPTH: tl.constexpr
):
    """Take off what a block of picks explains, in the rows of tokens that may yet be picked."""
    item = tl.program_id(2).to(tl.int64)
    node = tl.program_id(1)
    across = tl.cdiv(size, TILE)
    rows = tl.program_id(0) // across * TILE + tl.arange(0, TILE)
    cols = tl.program_id(0) % across * TILE + tl.arange(0, TILE)
    depth = tl.arange(0, DEPTH)
    inside = cols < size
    needed = rows < size
    needed = needed & (tl.load(taken + item * size + rows, mask=needed, other=1) == 0)
    factor += (item * size * nodes + node) * DEPTH
    mine = factor + rows[:, None] * nodes * DEPTH + depth[None, :]
    mine = tl.load(mine, mask=needed[:, None], other=0).to(tl.float32, bitcast=True)
    theirs = factor + cols[None, :] * nodes * DEPTH + depth[:, None]
    theirs = tl.load(theirs, mask=inside[None, :], other=0).to(tl.float32, bitcast=True)
    place = rows[:, None] * size + cols[None, :]
    known = needed[:, None] & inside[None, :]
    left += item * tl.maximum(far * nodes, size * size) + node * far
    values = tl.load(left + place, mask=known, other=0.0)
    # three products of halves: 22 bits, of the 24 that one of float32 would round to
    values -= tl.dot(mine, theirs, input_precision="tf32x3")
    tl.store(new_left + (item * nodes + node) * size * size + place, values, mask=known)


class Layout(NamedTuple):
    """How choices are laid out."""

    programs: int  # an item
    items: int  # at work at once
    columns: tuple[int, int]  # two parts of them
    warps: int  # a program
    registers: int  # a thread


def _parts(count: int) -> tuple[int, int]:
    """One or two powers of two that hold `count` columns; the second may be 0.

    >>> _parts(576), _parts(500), _parts(64)
    ((512, 64), (512, 0), (64, 0))
    """
    whole = triton.next_power_of_2(count)
    rest = triton.next_power_of_2(max(count - whole // 2, 1))
    return (whole // 2, rest) if rest < whole // 2 else (whole, 0)


def _room(warps: int, registers: int, device: torch.device) -> int:
    """How many programs the device holds at once."""
    cores = torch.cuda.get_device_properties(device).multi_processor_count
    return cores * (65536 // (registers * 32 * warps))


def layout_of(
    items: int, size: int, width: int, device: torch.device, *, spectral: bool
) -> Layout | None:
    """The layout for items of so many tokens and columns, or None if they do not fit."""
    programs, warps, layout = triton.cdiv(size, _ROWS), _WARPS[spectral], None
    if max(size, width) > _WIDEST:
        return None
    for registers in (registers[spectral] for registers in _REGISTERS):
        together = _room(warps, registers, device) // programs
        if together:
            layout = Layout(programs, min(items, together), _parts(width), warps, registers)
        if together >= items:
            break
    return layout


def _published(gains: Tensor) -> Tensor:
    """The bits of finite gains: others would be waited for."""
    largest = _LARGEST.value
    return gains.nan_to_num(nan=largest, posinf=largest, neginf=-largest).view(torch.int32)


class Choice(NamedTuple):
    """What `lib.kernels.greedy.forward` is given, contiguous; what is an item's comes first."""

    first: Tensor
    own: Tensor
    priority: Tensor
    matrix: Tensor | None
    table: Tensor | None
    scale: Tensor | None
    nodes: tuple[Tensor, Tensor] | None  # shifts t (Q,) and weights w (Q,)
    ahead: int

    def items(self, start: int, end: int) -> Choice:
        """Some of its items."""
        some = (None if x is None else x[start:end] for x in self[:6])
        return Choice(*some, nodes=self.nodes, ahead=self.ahead)


def resident(choice: Choice, k: int) -> Tensor | None:
    """As `lib.kernels.greedy.forward`; None if it does not fit."""
    items, size = choice.first.shape
    width = 1 if choice.table is None else choice.table.shape[-1]
    together = items
    if choice.nodes:
        together = max(1, _HELD // (len(choice.nodes[0]) * size * (size + k)))
    spectral = choice.nodes is not None
    layout = layout_of(min(items, together), size, width, choice.first.device, spectral=spectral)
    if layout is None:
        return None
    order = torch.empty(items, k, dtype=torch.int64, device=choice.first.device)
    for start in range(0, items, together):
        end = start + together
        _resident(choice.items(start, end), k, layout, order[start:end])
    return order


def _resident(choice: Choice, k: int, layout: Layout, order: Tensor) -> None:
    first, own, priority, matrix, table, scale, nodes_, ahead = choice
    items, size = first.shape
    width = 1 if table is None else table.shape[-1]
    t, w = nodes_ or (first, first)
    nodes, block = (len(t), _PICKS) if nodes_ else (1, k)
    absent = {"fill_value": _ABSENT.value, "dtype": torch.int32, "device": first.device}
    gains = torch.full((items, k, size), **absent)
    gains[:, 0] = _published(first)
    if ahead:
        gains[:, :ahead] = _published(priority).unsqueeze(1)
    taken = torch.zeros(items, size, dtype=torch.int8, device=first.device)
    covered = first.new_zeros(items, width)
    now, factors, pivots, left = first, [gains], [first, first], first
    if matrix is not None:
        now = matrix
        factors = torch.full((triton.cdiv(k, block), items, size, nodes, block), **absent)
        start = matrix.diagonal(dim1=-2, dim2=-1).unsqueeze(1) + t.unsqueeze(-1)
        pivots = [start.contiguous(), torch.empty(items, nodes, size, device=first.device)]
        if k > block:
            left = first.new_empty(items, nodes, size, size)
    far, across = 0, triton.cdiv(size, _TILE)
    for number, begin in enumerate(range(0, k, block)):
        end = min(begin + block, k)
        _resident_kernel[(layout.programs, layout.items)](
            first if matrix is None else matrix, now, far, t, w,
            factors[number], pivots[number % 2], pivots[1 - number % 2],
            first if table is None else table, first if scale is None else scale,
            covered, own, gains, taken, order,
            items, size, width, nodes, begin, end, k, ahead,
            SPECTRAL=matrix is not None, COVER=table is not None,
            BLOCK=triton.next_power_of_2(size), ROWS=_ROWS, NODES=triton.next_power_of_2(nodes),
            DEPTH=block if nodes_ else 1, COLS=layout.columns[0], MORE=layout.columns[1],
            num_warps=layout.warps, maxnreg=layout.registers, launch_cooperative_grid=True,
        )  # fmt: skip
        if end < k:
            _left_kernel[(across * across, nodes, items)](
                now, far, factors[number], taken, left, size, nodes, TILE=_TILE, DEPTH=block
            )
            now, far = left, size * size
