"""Greedy forward selection in blocks of picks: its layout and its launches.

By coverage alone all picks are one block, and one launch. The entropy needs, of every node, a row
of what the kept tokens leave unexplained: what a block explains is taken off by a launch over the
whole matrix after it, and what the block itself has explained so far by every program. What does
not fit is left to `lib.kernels.greedy`, a launch a pick.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from . import common
from .resident import _ABSENT, _LARGEST, _left_kernel, _resident_kernel

#: rows of a program
_ROWS = 16
#: warps of a program and registers of a thread, by what tokens are chosen: the first with which all
#: items are at work at once, else the last. No token's sums depend on them, nor on rows
_SHAPES = {
    "coverage": ((8, 128),),
    "entropy": ((8, 255), (4, 255), (4, 128)),
    "both": ((8, 255), (4, 255), (4, 168)),
}
#: bytes that the threads of a program share
_SHARED = 4096
#: columns of a table whose rows fit into them, how many of a wider one are read at once, and how
#: many a warp's threads take, four each
_HOLDS, _AT_ONCE, _COLS = 1024, 512, 128
#: picks of a block: of an item with that many tokens at most, and of a larger one
_PICKS = 16, 32
#: nodes and picks of which a warp's threads take one and four each
_LANES, _DEPTH = 8, 16
#: the order of the tiles that are brought up to date after a block
_TILE = 64
#: numbers of gains and of what is left of matrices that are held at once: more items take turns
_HELD = 1 << 27


class Layout(NamedTuple):
    """How choices are laid out."""

    programs: int  # an item
    items: int  # at work at once
    columns: tuple[int, int]  # two numbers of parts of them, or what is read at once and 0
    warps: int  # a program
    registers: int  # a thread


def _parts(columns: int) -> tuple[int, int]:
    """One or two powers of two that hold so many columns, in parts; the second may be 0.

    >>> _parts(576), _parts(500), _parts(64)
    ((4, 1), (4, 0), (1, 0))
    """
    parts = triton.cdiv(columns, _COLS)
    whole = triton.next_power_of_2(parts)
    rest = triton.next_power_of_2(parts - whole // 2)
    return (whole // 2, rest) if rest < whole // 2 else (whole, 0)


def layout_of(items: int, size: int, width: int, device: torch.device, *, by: str) -> Layout | None:
    """The layout for items of so many tokens and columns, or None if they do not fit."""
    programs, layout = triton.cdiv(size, _ROWS), None
    columns = _parts(width) if width <= _HOLDS else (_AT_ONCE // _COLS, 0)
    for warps, registers in _SHAPES[by]:
        together = common._room(warps, registers, _SHARED, device) // programs
        if together:
            layout = Layout(programs, min(items, together), columns, warps, registers)
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


def in_blocks(choice: Choice, k: int) -> Tensor | None:
    """As `lib.kernels.greedy.forward`; None if it does not fit."""
    items, size = choice.first.shape
    width = 1 if choice.table is None else choice.table.shape[-1]
    left = len(choice.nodes[0]) * size * size if choice.nodes else 0
    together = max(1, _HELD // (left + k * size))
    by = "coverage" if choice.nodes is None else "entropy" if choice.table is None else "both"
    layout = layout_of(min(items, together), size, width, choice.first.device, by=by)
    if layout is None:
        return None
    order = torch.empty(items, k, dtype=torch.int64, device=choice.first.device)
    for start in range(0, items, together):
        end = start + together
        _in_blocks(choice.items(start, end), k, layout, order[start:end])
    return order


def _in_blocks(choice: Choice, k: int, layout: Layout, order: Tensor) -> None:
    first, own, priority, matrix, table, scale, nodes_, ahead = choice
    items, size = first.shape
    width = 1 if table is None else table.shape[-1]
    t, w = nodes_ or (first, first)
    nodes, block = (len(t), _PICKS[size > _HOLDS]) if nodes_ else (1, k)
    absent = {"fill_value": _ABSENT.value, "dtype": torch.int32, "device": first.device}
    gains = torch.full((items, k, size), **absent)
    gains[:, 0] = _published(first)
    if ahead:
        gains[:, :ahead] = _published(priority).unsqueeze(1)
    taken = torch.zeros(2, items, size, dtype=torch.int8, device=first.device)
    covered = first.new_zeros(items, layout.programs, width)
    now, factors, pivots, left = first, [gains, gains], [first, first], first
    if matrix is not None:
        now = matrix
        factors = torch.full((2, items, size, nodes, block), **absent)
        start = matrix.diagonal(dim1=-2, dim2=-1).unsqueeze(1) + t.unsqueeze(-1)
        pivots = [start.contiguous(), torch.empty(items, nodes, size, device=first.device)]
        if k > block:
            left = first.new_empty(items, nodes, size, size)
    far, across, depth = 0, triton.cdiv(size, _TILE), min(block, _DEPTH) if nodes_ else 1
    for number, begin in enumerate(range(0, k, block)):
        end, old, new = min(begin + block, k), number % 2, 1 - number % 2
        _resident_kernel[(layout.programs, layout.items)](
            first if matrix is None else matrix, now, far, t, w,
            factors[old], pivots[old], pivots[new],
            first if table is None else table, first if scale is None else scale,
            covered, own, gains, taken[old], taken[new], order,
            items, size, width, nodes, begin, end, k, ahead,
            SPECTRAL=matrix is not None, COVER=table is not None, WIDE=width > _HOLDS,
            BLOCK=triton.next_power_of_2(size), WARPS=layout.warps, EACH=_ROWS // layout.warps,
            LANES=_LANES, TURNS=triton.cdiv(triton.next_power_of_2(nodes), _LANES),
            DEPTH=depth, DEEP=block // depth if nodes_ else 1,
            PARTS=layout.columns[0], MORE=layout.columns[1], COLS=_COLS,
            num_warps=layout.warps, maxnreg=layout.registers, launch_cooperative_grid=True,
        )  # fmt: skip
        if end < k:
            _left_kernel[(across * (across + 1) // 2, nodes, items)](
                now, far, factors[old], factors[new], taken[new], left, size, nodes,
                TILE=_TILE, DEPTH=block,
            )  # fmt: skip
            now, far = left, size * size
