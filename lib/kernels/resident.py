"""Greedy choices by coverage, all picks of an item in one launch.

An item's table is spread over programs that keep their rows of it in registers. What they tell each
other are the next gains, written into memory that nothing was written into before, and read until
it is there: a barrier with nothing to wait for but the values themselves. That takes all programs
of an item at work at once, which a cooperative launch guarantees. What does not fit into registers
is left to `lib.kernels.greedy`, a launch a pick.
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
#: rows of a program and its warps, the same for every batch: sums are taken in one order
_ROWS, _WARPS = 16, 8
#: registers that a thread may take
_REGISTERS = 128
#: columns of a table whose rows fit into them
_WIDEST = 1024


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
def _missing(table, covered):
    return tl.sum(tl.maximum(table - covered[None, :], 0.0), axis=1)


@triton.jit(do_not_specialize=["items", "picks", "ahead"])
def _resident_kernel(
    table, scale, own, gains, order,
    items, size, width, picks, ahead,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, MORE: tl.constexpr,
):  # fmt: skip
    """All picks of every `num_programs(1)`-th item; gains (items, picks, size) are those of every
    pick, at first the given ones."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    here = rows < size
    at = tl.arange(0, BLOCK)
    inside = at < size
    cols = tl.arange(0, COLS)
    more = COLS + tl.arange(0, MORE if MORE else 1)
    item = tl.program_id(1).to(tl.int64)
    while item < items:
        mine = table + item * size * width
        published = gains + item * picks * size
        factor = tl.load(scale + item * size + rows, mask=here, other=0.0)
        base = tl.load(own + item * size + rows, mask=here, other=0.0)
        place = mine + rows[:, None] * width
        known = here[:, None] & (cols < width)[None, :]
        values = tl.load(place + cols[None, :], mask=known, other=0.0)
        covered = tl.zeros((COLS,), dtype=tl.float32)
        known = here[:, None] & (more < width)[None, :]
        values_2 = tl.load(place + more[None, :], mask=known, other=0.0)
        covered_2 = tl.zeros(more.shape, dtype=tl.float32)
        free = inside
        for step in range(0, picks):
            pick = _pick(published + step * size, free, inside, at, size)
            free = free & (at != pick)
            if tl.program_id(0) == 0:
                tl.store(order + item * picks + step, pick)
            if step + 1 < picks:
                row = mine + pick * width
                picked = tl.load(row + cols, mask=cols < width, other=0.0)
                picked_2 = tl.load(row + more, mask=more < width, other=0.0)
                covered = tl.maximum(covered, picked)
                uncovered = _missing(values, covered)
                if MORE:
                    covered_2 = tl.maximum(covered_2, picked_2)
                    uncovered += _missing(values_2, covered_2)
                if step + 1 >= ahead:
                    gain = tl.minimum(base + factor * uncovered, _LARGEST)
                    then = published + (step + 1) * size + rows
                    bits = gain.to(tl.int32, bitcast=True)
                    tl.store(then, bits, mask=here, cache_modifier=".cg")
        item += tl.num_programs(1)


class Layout(NamedTuple):
    """How a choice is laid out: programs an item, items at a time, two parts of the columns."""

    programs: int
    items: int
    columns: tuple[int, int]


def _parts(count: int) -> tuple[int, int]:
    """One or two powers of two that hold `count` columns; the second may be 0.

    >>> _parts(576), _parts(500), _parts(64)
    ((512, 64), (512, 0), (64, 0))
    """
    whole = triton.next_power_of_2(count)
    rest = triton.next_power_of_2(max(count - whole // 2, 1))
    return (whole // 2, rest) if rest < whole // 2 else (whole, 0)


def _room(device: torch.device) -> int:
    """How many programs the device holds at once."""
    cores = torch.cuda.get_device_properties(device).multi_processor_count
    return cores * (65536 // (_REGISTERS * 32 * _WARPS))


def layout_of(items: int, size: int, width: int, device: torch.device) -> Layout | None:
    """The layout for tables (items, size, width), or None if they do not fit."""
    programs = triton.cdiv(size, _ROWS)
    together = _room(device) // programs
    if max(size, width) > _WIDEST or not together:
        return None
    return Layout(programs, min(items, together), _parts(width))


def _published(gains: Tensor) -> Tensor:
    """The bits of finite gains: others would be waited for."""
    largest = _LARGEST.value
    return gains.nan_to_num(nan=largest, posinf=largest, neginf=-largest).view(torch.int32)


def resident(
    first: Tensor,
    k: int,
    layout: Layout,
    own: Tensor,
    cover: tuple[Tensor, Tensor],
    priority: Tensor | None,
    ahead: int,
) -> Tensor:
    """As `lib.kernels.greedy.forward`, whose arguments these are."""
    items, size = first.shape
    table, scale = cover
    gains = torch.full((items, k, size), _ABSENT.value, dtype=torch.int32, device=first.device)
    gains[:, 0] = _published(first)
    if priority is not None:
        gains[:, :ahead] = _published(priority).unsqueeze(1)
    order = torch.empty(items, k, dtype=torch.int64, device=first.device)
    _resident_kernel[(layout.programs, layout.items)](
        table, scale, own, gains, order,
        items, size, table.shape[-1], k, ahead,
        BLOCK=triton.next_power_of_2(size), ROWS=_ROWS,
        COLS=layout.columns[0], MORE=layout.columns[1],
        num_warps=_WARPS, maxnreg=_REGISTERS, launch_cooperative_grid=True,
    )  # fmt: skip
    return order
