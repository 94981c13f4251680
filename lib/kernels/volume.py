"""Greedy determinants in float64, all picks in one launch whose programs stay on the device.

As in `lib.kernels.resident`, an item's programs tell each other what they have found through memory
that nothing was written into before. Factors are kept in memory: each pick reads one row of another
program and the program's own, which its core holds.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import common
from .common import _on_device
from .resident import _ABSENT, _numbers, _pick, _publish

#: rows of a program: the fewest with which all programs of an item find room
_ROWS = 16, 32, 64
#: numbers of a factor that a program reads at once
_AT_ONCE = 512
#: warps of a program, registers of a thread, bytes that its threads share
_WARPS, _REGISTERS, _SHARED = 4, 128, 2048
#: numbers of what is published that are held at once: more items take turns
_HELD = 1 << 27
_LARGEST = tl.constexpr(1.7976931348623157e308)


@triton.jit(do_not_specialize=["items", "picks"])
def _volume_kernel(
    matrix, least, factor, left, order, items, size, picks,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Each pick has the most left, orthogonal to those before it, in every `num_programs(1)`-th
    item; factor (items, size, picks) of Cholesky, left (items, picks, size) before every pick."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    here = rows < size
    at = tl.arange(0, BLOCK)
    inside = at < size
    depth = tl.arange(0, DEPTH)
    item = tl.program_id(1).to(tl.int64)
    while item < items:
        kernel = matrix + item * size * size
        factors = factor + item * size * picks
        mine = factors + rows * picks
        published = left + item * picks * size
        rest = tl.load(kernel + rows * (size + 1), mask=here, other=0.0)
        floor = tl.load(least + item * size + rows, mask=here, other=0.0)
        free = inside
        for step in range(0, picks):
            pick = _pick(published + step * size, free, inside, at, size)
            free = free & (at != pick)
            if tl.program_id(0) == 0:
                tl.store(order + item * picks + step, pick)
            if step + 1 < picks:
                row = tl.load(kernel + pick * size + rows, mask=here, other=0.0)
                pivot = _numbers(tl.load(published + step * size + pick, volatile=True))
                product = tl.zeros((ROWS,), dtype=tl.float64)
                waiting = step > 0
                while waiting:  # all of it again: what is not there yet is the last number at most
                    product = tl.zeros((ROWS,), dtype=tl.float64)
                    absent = tl.zeros((DEPTH,), dtype=tl.int32)
                    for start in range(0, step, DEPTH):
                        done = start + depth
                        known = done < step
                        place = mine[:, None] + done[None, :]
                        own = tl.load(place, mask=here[:, None] & known[None, :], other=0)
                        bits = factors + pick * picks + done
                        bits = tl.load(bits, mask=known, other=0, volatile=True)
                        absent |= (bits == _ABSENT).to(tl.int32)
                        product += tl.sum(_numbers(own) * _numbers(bits)[None, :], axis=1)
                    waiting = tl.max(absent) > 0
                # a token of no quality has nothing left, and nothing in common with others
                some = pivot > 0
                new = tl.where(some, (row - product) / tl.sqrt(tl.where(some, pivot, 1.0)), 0.0)
                new = tl.where(new == new, new, 0.0)  # of no number, whose bits would be waited for
                _publish(mine + step, new, here)
                rest = tl.minimum(tl.maximum(rest - new * new, floor), _LARGEST)
                rest = tl.where(rest == rest, rest, 0.0)
                # the next pick waits for it, and so do other threads of this program for the factor
                tl.debug_barrier()
                _publish(published + (step + 1) * size + rows, rest, here)
        item += tl.num_programs(1)


@_on_device
def volume(matrix: Tensor, least: Tensor, k: int) -> Tensor | None:
    """`lib.selection.conditional_dpp`: picks (B, k) of float64 kernels (B, N, N) and least (B, N);
    None if the programs of an item do not find room."""
    items, size, _ = matrix.shape
    device = matrix.device
    room = common._room(_WARPS, _REGISTERS, _SHARED, device)
    fitting = [rows for rows in _ROWS if triton.cdiv(size, rows) <= room]
    if not fitting:
        return None
    programs = triton.cdiv(size, rows := fitting[0])
    order = torch.empty(items, k, dtype=torch.int64, device=device)
    together = max(1, _HELD // (2 * k * size))
    for start in range(0, items, together):
        some, floor = (x[start : start + together].contiguous() for x in (matrix, least))
        count = len(some)
        absent = {"fill_value": _ABSENT.value, "dtype": torch.int64, "device": device}
        factor, left = torch.full((2, count, k * size), **absent)
        left[:, :size] = some.diagonal(dim1=-2, dim2=-1).nan_to_num().view(torch.int64)
        _volume_kernel[programs, min(count, room // programs)](
            some, floor, factor, left, order[start : start + together], count, size, k,
            BLOCK=triton.next_power_of_2(size), ROWS=rows, DEPTH=_AT_ONCE // rows,
            num_warps=_WARPS, maxnreg=_REGISTERS, launch_cooperative_grid=True,
        )  # fmt: skip
    return order
