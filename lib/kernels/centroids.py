"""Inner products of the centroids of given clusters."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .common import _TILE, _on_device, _plus_dot


@triton.jit(do_not_specialize=["clusters"])
def _average_kernel(
    x, labels, out, size, height, clusters, per_item, along, across,
    UNIT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One tile of the means over each cluster's columns of x (height, size) with given strides."""
    item = tl.program_id(2).to(tl.int64)
    x += item * per_item
    labels += item * size
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.program_id(1) * COLS + tl.arange(0, COLS)
    total = tl.zeros((ROWS, COLS), dtype=tl.float32)
    counts = tl.zeros((DEPTH, COLS), dtype=tl.int32)
    for start in range(0, size, DEPTH):
        tokens = start + tl.arange(0, DEPTH)
        label = tl.load(labels + tokens, mask=tokens < size, other=-1).to(tl.int32)
        place = x + rows[:, None] * along + tokens[None, :] * across
        inside = (rows[:, None] < height) & (tokens[None, :] < size)
        values = tl.load(place, mask=inside, other=0.0)
        member = label[:, None] == cols[None, :]
        total = _plus_dot(total, values, member, UNIT)
        counts += member.to(tl.int32)
    total /= tl.maximum(tl.sum(counts, axis=0), 1).to(tl.float32)[None, :]
    inside = (rows[:, None] < height) & (cols[None, :] < clusters)
    place = out + item * height * clusters + rows[:, None] * clusters + cols[None, :]
    tl.store(place, total, mask=inside)


@_on_device
def centroid_gram(matrix: Tensor, labels: Tensor, n_clusters: int, *, unit: bool = False) -> Tensor:
    """`lib.clustering.centroid_gram` (..., M, M) of Gram matrices (..., N, N), labels (..., N).

    `unit` says that no entry exceeds one, which takes two products instead of three.
    """
    lead, size = matrix.shape[:-2], matrix.shape[-1]
    items = lead.numel()
    matrix, labels = matrix.contiguous(), labels.contiguous()
    half = matrix.new_empty(items, size, n_clusters)
    out = matrix.new_empty(*lead, n_clusters, n_clusters)
    launch = {"UNIT": unit, "ROWS": _TILE, "COLS": 32, "DEPTH": 128, "num_warps": 4}
    columns = triton.cdiv(n_clusters, 32)
    _average_kernel[(triton.cdiv(size, _TILE), columns, items)](
        matrix, labels, half, size, size, n_clusters, size * size, size, 1, **launch
    )
    # the other side: the same of the transpose
    _average_kernel[(triton.cdiv(n_clusters, _TILE), columns, items)](
        half, labels, out, size, n_clusters, n_clusters, size * n_clusters, 1, n_clusters, **launch
    )
    return (out + out.mT) / 2
