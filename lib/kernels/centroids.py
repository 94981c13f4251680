"""Inner products of the centroids of given clusters.

Means over clusters are sums over few rows: each program reads the rows of one cluster's tokens
alone. No sum depends on the order in which programs run.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import _on_device

#: rows read at once, and columns at most: all loads of a tile wait together
_ROWS, _COLS = 8, 1024


@triton.jit(do_not_specialize=["clusters", "shared"])
def _halves_kernel(
    k, labels, order, starts, counts, half, squares, size, clusters, shared,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """One cluster's mean of the rows of k, and the squared length of its centroid.

    Every `shared` items have labels of their own. The cluster's tokens go to order[starts:], as
    many as counts; the programs of items with the same labels write the same.
    """
    cluster = tl.program_id(0)
    item = tl.program_id(1).to(tl.int64)
    k += item * size * size
    half += (item * clusters + cluster) * size
    given = item % shared
    labels += given * size
    at = tl.arange(0, BLOCK)
    label = tl.load(labels + at, mask=at < size, other=clusters)
    member = label == cluster
    start = tl.sum((label < cluster).to(tl.int32), axis=0)
    count = tl.sum(member.to(tl.int32), axis=0)
    mine = order + given * size + start
    tl.store(mine + tl.cumsum(member.to(tl.int32), axis=0) - 1, at, mask=member)
    tl.store(starts + given * clusters + cluster, start)
    tl.store(counts + given * clusters + cluster, count)
    tl.debug_barrier()
    share = 1.0 / tl.maximum(count, 1).to(tl.float32)
    square = tl.zeros((COLS,), dtype=tl.float32)
    for begin in tl.range(0, size, COLS, num_stages=1):
        cols = begin + tl.arange(0, COLS)
        total = tl.zeros((COLS,), dtype=tl.float32)
        for first in tl.range(0, count, ROWS, num_stages=1):
            which = first + tl.arange(0, ROWS)
            rows = tl.load(mine + which, mask=which < count, other=0)
            inside = (which[:, None] < count) & (cols[None, :] < size)
            place = k + rows[:, None] * size + cols[None, :]
            total += tl.sum(tl.load(place, mask=inside, other=0.0), axis=0)
        total *= share
        tl.store(half + cols, total, mask=cols < size)
        own = tl.load(labels + cols, mask=cols < size, other=clusters) == cluster
        square += tl.where(own, total, 0.0)
    tl.store(squares + item * clusters + cluster, tl.sum(square, axis=0) * share)


@triton.jit
def _weight(squares, counts, at, inside, MASS: tl.constexpr):
    """What gives centroids unit length, or that of their cluster's size; zero for length zero."""
    length = tl.sqrt(tl.maximum(tl.load(squares + at, mask=inside, other=0.0), 0.0))
    weight = tl.where(length > 1e-6, 1.0 / tl.maximum(length, 1e-6), 0.0)
    if MASS:
        weight *= tl.sqrt(tl.load(counts + at, mask=inside, other=0).to(tl.float32))
    return weight


@triton.jit(do_not_specialize=["clusters", "shared"])
def _means_kernel(
    half, squares, order, starts, counts, out, size, clusters, shared,
    SCALED: tl.constexpr, MASS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """One row of the means over both clusters up to the diagonal, and its mirror image."""
    cluster = tl.program_id(0)
    item = tl.program_id(1).to(tl.int64)
    given = item % shared
    half += item * clusters * size
    squares += item * clusters
    out += item * clusters * clusters
    starts += given * clusters
    counts += given * clusters
    mine = order + given * size + tl.load(starts + cluster)
    count = tl.load(counts + cluster)
    share = 1.0 / tl.maximum(count, 1).to(tl.float32)
    for begin in range(0, cluster + 1, COLS):
        cols = begin + tl.arange(0, COLS)
        inside = cols <= cluster
        total = tl.zeros((COLS,), dtype=tl.float32)
        for first in range(0, count, ROWS):
            which = first + tl.arange(0, ROWS)
            tokens = tl.load(mine + which, mask=which < count, other=0)
            place = half + cols[None, :] * size + tokens[:, None]
            known = (which[:, None] < count) & inside[None, :]
            total += tl.sum(tl.load(place, mask=known, other=0.0), axis=0)
        square = tl.load(squares + cluster)
        total = tl.where(cols == cluster, square, total * share)
        if SCALED:
            total *= _weight(squares, counts, cols, inside, MASS)
            total *= _weight(squares, counts, cluster, True, MASS)
        tl.store(out + cluster * clusters + cols, total, mask=inside)
        tl.store(out + cols * clusters + cluster, total, mask=inside)


def _means(matrix: Tensor, labels: Tensor, clusters: int, *, scaled: bool, mass: bool) -> Tensor:
    """Inner products (..., M, M) of centroids, from Gram matrices (..., N, N) and labels of the
    last of their leading dimensions."""
    lead, size = matrix.shape[:-2], matrix.shape[-1]
    items, shared = lead.numel(), labels.shape[:-1].numel()
    matrix, labels = matrix.contiguous(), labels.contiguous()
    whole = {"dtype": torch.int32, "device": matrix.device}
    order = torch.empty(shared, size, **whole)
    starts, counts = torch.empty(2, shared, clusters, **whole)
    half = matrix.new_empty(items, clusters, size)
    squares = matrix.new_empty(items, clusters)
    out = matrix.new_empty(*lead, clusters, clusters)
    block = triton.next_power_of_2(size)
    _halves_kernel[(clusters, items)](
        matrix, labels, order, starts, counts, half, squares, size, clusters, shared,
        BLOCK=block, ROWS=_ROWS, COLS=min(block, _COLS), num_warps=4,
    )  # fmt: skip
    _means_kernel[(clusters, items)](
        half, squares, order, starts, counts, out, size, clusters, shared,
        SCALED=scaled, MASS=mass, ROWS=_ROWS, COLS=min(triton.next_power_of_2(clusters), 256),
        num_warps=4,
    )  # fmt: skip
    return out


@_on_device
def centroid_gram(matrix: Tensor, labels: Tensor, n_clusters: int) -> Tensor:
    """`lib.clustering.centroid_gram` (..., M, M) of Gram matrices (..., N, N), labels (..., N).

    Symmetric to the last bit.
    """
    return _means(matrix, labels, n_clusters, scaled=False, mass=False)


@_on_device
def unit_centroids(matrix: Tensor, labels: Tensor, n_clusters: int, *, mass: bool) -> Tensor:
    """Gram matrices (L, ..., M, M) of centroids of unit length, of Gram matrices (L, ..., N, N) of
    several layers and their one clustering (..., N).

    With `mass` a centroid has the squared length of its cluster's size instead. Those of an empty
    cluster, or of length zero, are zero.
    """
    return _means(matrix, labels, n_clusters, scaled=True, mass=mass)
