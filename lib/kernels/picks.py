"""The greedy rule whose gains change by one row a pick: all picks of an item in one program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import _on_device
from .greedy import _best


@triton.jit(do_not_specialize=["picks"])
def _farthest_kernel(distances, nearest, order, size, picks, BLOCK: tl.constexpr):
    """Each pick is the farthest from those before it, the first the farthest from its nearest."""
    item = tl.program_id(0).to(tl.int64)
    distances += item * size * size
    at = tl.arange(0, BLOCK)
    inside = at < size
    gain = tl.load(nearest + item * size + at, mask=inside, other=0.0)
    spread = tl.full((BLOCK,), float("inf"), dtype=tl.float32)
    free = inside
    for step in range(0, picks):
        pick = _best(gain, free, at, size)
        tl.store(order + item * picks + step, pick)
        free = free & (at != pick)
        spread = tl.minimum(spread, tl.load(distances + pick * size + at, mask=inside, other=0.0))
        gain = spread


@_on_device
def farthest(distances: Tensor, nearest: Tensor, k: int) -> Tensor:
    """`lib.selection.farthest_points`: picks (B, k) of distances (B, N, N) and the first gains."""
    items, size, _ = distances.shape
    order = torch.empty(items, k, dtype=torch.int64, device=distances.device)
    block = triton.next_power_of_2(size)
    _farthest_kernel[(items,)](
        distances.contiguous(), nearest.contiguous(), order, size, k,
        BLOCK=block, num_warps=max(1, min(8, block // 128)),
    )  # fmt: skip
    return order
