"""The diagonal of the rollout of a few layers, without their product."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .common import _on_device


@triton.jit
def _rolled_kernel(
    top, above, below, bottom, out, size, share,
    ABOVE: tl.constexpr, BELOW: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Some rows of the diagonal of (I + sT) (I + sA) (I + sB) R, A if ABOVE and B if BELOW.

    Row i of the first two factors times column i of the last two: neither product is stored.
    """
    item = tl.program_id(1).to(tl.int64) * size * size
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    here = rows[:, None] < size
    diagonal = tl.zeros((ROWS,), dtype=tl.float32)
    for begin in range(0, size, COLS):
        cols = begin + tl.arange(0, COLS)
        inside = here & (cols[None, :] < size)
        row_major = item + rows[:, None] * size + cols[None, :]
        column_major = item + cols[None, :] * size + rows[:, None]
        left = tl.load(top + row_major, mask=inside, other=0.0)
        right = tl.load(bottom + column_major, mask=inside, other=0.0)
        if ABOVE:
            left += tl.load(above + row_major, mask=inside, other=0.0)
        if ABOVE or BELOW:
            before = tl.zeros((ROWS, COLS), dtype=tl.float32)
            after = tl.zeros((ROWS, COLS), dtype=tl.float32)
            for start in range(0, size, DEPTH):
                depth = start + tl.arange(0, DEPTH)
                near = here & (depth[None, :] < size)
                far = (depth[:, None] < size) & (cols[None, :] < size)
                if ABOVE:
                    place = item + rows[:, None] * size + depth[None, :]
                    one = tl.load(top + place, mask=near, other=0.0)
                    place = item + depth[:, None] * size + cols[None, :]
                    other = tl.load(above + place, mask=far, other=0.0)
                    before = tl.dot(one, other, before, input_precision="tf32x3")
                if BELOW:
                    place = item + depth[None, :] * size + rows[:, None]
                    one = tl.load(bottom + place, mask=near, other=0.0)
                    place = item + cols[None, :] * size + depth[:, None]
                    other = tl.load(below + place, mask=far, other=0.0)
                    after = tl.dot(one, other, after, input_precision="tf32x3")
            left += share * before
            right += share * after
        left = tl.where(rows[:, None] == cols[None, :], 1.0, 0.0) + share * left
        diagonal += tl.sum(left * right, axis=1)
    tl.store(out + tl.program_id(1).to(tl.int64) * size + rows, diagonal, mask=rows < size)


@_on_device
def rolled_diagonal(operators: Tensor, first: Tensor, share: float) -> Tensor:
    """Diagonals (..., M) of (I + sH_n) ... (I + sH_1) R, of one to three operators H (n, ..., M, M)
    and R = `first` (..., M, M)."""
    lead, size = first.shape[:-2], first.shape[-1]
    operators, first = operators.contiguous(), first.contiguous()
    count = len(operators)
    out = first.new_empty(*lead, size)
    _rolled_kernel[(triton.cdiv(size, 16), lead.numel())](
        operators[-1], operators[-2 if count > 2 else 0], operators[0], first, out, size, share,
        ABOVE=count > 2, BELOW=count > 1, ROWS=16, COLS=32, DEPTH=32, num_warps=4,
    )  # fmt: skip
    return out
