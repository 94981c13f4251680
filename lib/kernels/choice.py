"""The choice of Algorithm 1: ranks of clusters and tokens, core clusters, an exact budget."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import _GRID, _on_device, _round


@triton.jit
def _grid(values, inside):
    """Lower end and width of the range that `lib.selection._quantise` divides."""
    finite = inside & (tl.abs(values) < float("inf"))
    low = tl.min(tl.where(finite, values, float("inf")), axis=0)
    high = tl.max(tl.where(finite, values, -float("inf")), axis=0)
    span = tl.maximum(high - low, 1e-6 * tl.maximum(tl.abs(low), tl.abs(high)))
    return low, tl.maximum(span, 1e-30)


@triton.jit
def _on_grid(values, low, span):
    finite = tl.abs(values) < float("inf")
    return tl.where(finite, _round((tl.where(finite, values, low) - low) / span * _GRID), values)


@triton.jit
def _rank_rows(values, mine, rank, size, rows, sign, BLOCK: tl.constexpr):
    """How many values come before each of those of `rows`, largest first if sign is -1, ties by
    index."""
    at = tl.arange(0, BLOCK)
    inside = at < size
    low, span = _grid(values, inside)
    all_values = sign * _on_grid(values, low, span)
    mine = sign * _on_grid(mine, low, span)
    before = (all_values[None, :] < mine[:, None]) | (
        (all_values[None, :] == mine[:, None]) & (at[None, :] < rows[:, None])
    )
    count = tl.sum((before & inside[None, :]).to(tl.int32), axis=1)
    tl.store(rank + rows, count, mask=rows < size)


@triton.jit
def _filled(scores, counts, at, clusters):
    """Scores of clusters; -inf for an empty one."""
    count = tl.load(counts + at, mask=at < clusters, other=0)
    score = tl.load(scores + at, mask=at < clusters, other=0.0)
    return tl.where(count > 0, score, -float("inf"))


@triton.jit
def _without_rounding(distances, at, size):
    """Distances of tokens of mean square length one; zero for copies of their centroid."""
    distance = tl.load(distances + at, mask=at < size, other=0.0)
    return tl.where(distance < 0.5 / _GRID, 0.0, distance)


@triton.jit(do_not_specialize=["clusters"])
def _ranks_kernel(
    scores, counts, distances, filled, cluster_rank, near_rank, size, clusters,
    BLOCK: tl.constexpr, BINS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Ranks of the clusters by score and of the tokens by distance to their centroid.

    Scores go to `filled` with -inf for empty clusters.
    """
    item = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    scores += item * clusters
    counts += item * clusters
    mine = _filled(scores, counts, rows, clusters)
    tl.store(filled + item * clusters + rows, mine, mask=rows < clusters)
    values = _filled(scores, counts, tl.arange(0, BINS), clusters)
    _rank_rows(values, mine, cluster_rank + item * clusters, clusters, rows, -1.0, BINS)
    distances += item * size
    mine = _without_rounding(distances, rows, size)
    values = _without_rounding(distances, tl.arange(0, BLOCK), size)
    _rank_rows(values, mine, near_rank + item * size, size, rows, 1.0, BLOCK)


@triton.jit(do_not_specialize=["clusters", "cores", "per_cluster"])
def _keys_kernel(
    labels, counts, cluster_rank, near_rank, keys, mask, core,
    size, clusters, cores, per_cluster,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Core clusters, and Algorithm 1's choice or each token's place in the order of choice."""
    item = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cluster_rank += item * clusters
    rank = tl.load(cluster_rank + rows, mask=rows < clusters, other=0)
    count = tl.load(counts + item * clusters + rows, mask=rows < clusters, other=0)
    is_core = ((rank < cores) & (count > 0)).to(tl.int8)
    tl.store(core + item * clusters + rows, is_core, mask=rows < clusters)

    at = tl.arange(0, BLOCK)
    inside = at < size
    label = tl.load(labels + item * size + at, mask=inside, other=0).to(tl.int32)
    near = tl.load(near_rank + item * size + at, mask=inside, other=0)
    own = tl.load(labels + item * size + rows, mask=rows < size, other=0).to(tl.int32)
    mine = tl.load(near_rank + item * size + rows, mask=rows < size, other=0)
    nearer = (label[None, :] == own[:, None]) & (near[None, :] < mine[:, None])
    place = tl.sum((nearer & inside[None, :]).to(tl.int32), axis=1)
    rank = tl.load(cluster_rank + own, mask=rows < size, other=0)
    in_core = rank < cores
    taken = in_core & (place < per_cluster)
    if EXACT:
        tier = size * size * 2
        other = tl.where(in_core, tier + mine, 2 * tier + rank * size + mine)
        key = tl.where(taken, place * clusters + rank, other)
        tl.store(keys + item * size + rows, key, mask=rows < size)
    else:
        tl.store(mask + item * size + rows, taken.to(tl.int8), mask=rows < size)


@triton.jit(do_not_specialize=["budget"])
def _first_kernel(keys, mask, size, budget, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """Mark the tokens with the `budget` smallest keys, which are distinct."""
    item = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = tl.arange(0, BLOCK)
    inside = at < size
    key = tl.load(keys + item * size + at, mask=inside, other=0)
    mine = tl.load(keys + item * size + rows, mask=rows < size, other=0)
    before = (key[None, :] < mine[:, None]) & inside[None, :]
    rank = tl.sum(before.to(tl.int32), axis=1)
    tl.store(mask + item * size + rows, (rank < budget).to(tl.int8), mask=rows < size)


@_on_device
def choose(
    scores: Tensor,
    counts: Tensor,
    labels: Tensor,
    distances: Tensor,
    *,
    cores: int,
    per_cluster: int,
    budget: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mask (..., N), core clusters and scores (..., M) of `lib.selection.hierarchical`.

    Tokens have a mean square length of one; scores of empty clusters become -inf.
    """
    size, clusters = labels.shape[-1], counts.shape[-1]
    items = labels.shape[:-1].numel()
    labels, counts = labels.contiguous(), counts.contiguous()
    mask = torch.empty(labels.shape, dtype=torch.int8, device=labels.device)
    core = torch.empty(counts.shape, dtype=torch.int8, device=labels.device)
    filled = torch.empty(counts.shape, dtype=torch.float32, device=labels.device)
    integers = torch.empty(3, items, size, dtype=torch.int32, device=labels.device)
    keys, near_rank, cluster_rank = integers  # clusters never outnumber tokens
    grid = (triton.cdiv(size, 16), items)
    block, bins = triton.next_power_of_2(size), triton.next_power_of_2(clusters)
    _ranks_kernel[grid](
        scores.contiguous(),
        counts,
        distances.contiguous(),
        filled,
        cluster_rank,
        near_rank,
        size,
        clusters,
        BLOCK=block,
        BINS=bins,
        ROWS=16,
    )
    _keys_kernel[grid](
        labels,
        counts,
        cluster_rank,
        near_rank,
        keys,
        mask,
        core,
        size,
        clusters,
        cores,
        per_cluster,
        BLOCK=block,
        ROWS=16,
        EXACT=budget is not None,
    )
    if budget is not None:
        _first_kernel[grid](keys, mask, size, budget, BLOCK=block, ROWS=16)
    return mask.view(torch.bool), core.view(torch.bool), filled
