"""K-means in Gram space: no iteration depends on the width of the tokens.

Distances between unit tokens and centroids follow from the Gram matrix alone (kernel k-means with
a linear kernel), so clustering N tokens of width D costs O(N²D) once and O(N²M) per iteration.
Everything is batched: an item's result does not depend on its neighbours. With `check=False` a CUDA
call never waits for the host; on a CPU, where looking at the data costs nothing, items that have
come to rest are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .entropy import _as_gram, constants, fast, full_precision, unit_tokens

_TRIALS = 4  # candidates per step of the greedy k-means++ seeding
_GRID = 2.0**16  # squared distances are compared on a grid of 1/65536 of the mean squared norm
_REFILL_EVERY = 5  # iterations between two searches for empty clusters


class KMeans(NamedTuple):
    """Result of `kmeans` for tokens (..., N, D) and M clusters.

    Attributes:
        labels: (..., N) int64, the cluster of each token.
        centroid_gram: (..., M, M) inner products of the centroids, the plain means of their unit
            tokens (eq. 4), so its diagonal is at most one; zero for an empty cluster.
        distances: (..., N) squared distance of each token to its own centroid.
        counts: (..., M) int64, tokens per cluster; zero only if the distinct tokens do not suffice.
        inertia: (...) sum of `distances`.
    """

    labels: Tensor
    centroid_gram: Tensor
    distances: Tensor
    counts: Tensor
    inertia: Tensor


@constants
def _uniforms(
    seeds: tuple[int, ...], steps: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Uniform numbers (len(seeds), steps, trials), each item's from its own seed."""
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        rows.append(torch.rand(steps, _TRIALS, generator=generator, dtype=torch.float64))
    return torch.stack(rows).to(device, dtype)


@constants
def _draws(seeds: tuple[int, ...], steps: int, device: torch.device) -> tuple[Tensor, ...]:
    """`_uniforms` step by step: each (len(seeds), trials), float64."""
    return _uniforms(seeds, steps, torch.float64, device).transpose(0, 1).contiguous().unbind()


def item_seeds(random_state: int | Sequence[int], items: int) -> tuple[int, ...]:
    """One seed for all items (given an int), or one per item of the flattened batch."""
    seeds = (random_state,) if isinstance(random_state, int) else tuple(random_state)
    if len(seeds) not in (1, items):
        raise ValueError(f"random_state needs one seed or one per item ({items}), got {len(seeds)}")
    return seeds


def _seed(distance: Tensor, draws: Sequence[Tensor]) -> Tensor:
    """Greedy k-means++: M centres (B, M) from pairwise squared distances (B, N, N).

    The distances are whole numbers, so that their sums in float64 are exact and no order of
    summation can change a choice. What the M steps cost is calls more than arithmetic: they write
    into the same buffers, and a single item, which is one image, is spared the offsets.
    """
    batch, size, _ = distance.shape
    single = batch == 1
    table = distance.reshape(-1, size)
    table = table.double() if single else table  # else the few rows of a step are converted
    item = torch.arange(batch, device=table.device)
    offset, before = (item * size).unsqueeze(-1), item * _TRIALS
    centre = (draws[0][:, 0] * size).long().clamp_max(size - 1).expand(batch)
    closest = table[centre + item * size].double()
    cumulative, target = torch.empty_like(closest), closest.new_empty(batch, _TRIALS)
    at = torch.empty_like(target, dtype=torch.int64)
    rows = table.new_empty(batch * _TRIALS, size)
    nearer, sums = torch.empty_like(rows, dtype=torch.float64), torch.empty_like(target)
    total, from_all = cumulative[:, -1:], closest.unsqueeze(1)
    bounds, wanted = cumulative[:, :-1].squeeze(0), target.squeeze(0)
    of_item, per_item = rows.view(batch, _TRIALS, size), nearer.view(batch, _TRIALS, size)
    trials, best = [], []
    for uniforms in draws[1:]:
        torch.cumsum(closest, -1, out=cumulative)
        torch.mul(uniforms, total, out=target)
        if single:  # a draw on the total lands on the last token
            tokens = places = torch.searchsorted(bounds, wanted, right=True)
        else:
            tokens = torch.searchsorted(cumulative, target, right=True).clamp_max_(size - 1)
            places = torch.add(tokens, offset, out=at).view(-1)
        torch.index_select(table, 0, places, out=rows)
        torch.minimum(of_item, from_all, out=per_item)
        torch.sum(per_item, -1, out=sums)
        first = torch.argmin(sums, -1)
        torch.index_select(nearer, 0, first if single else first + before, out=closest)
        trials.append(tokens)
        best.append(first)
    if not trials:
        return centre.unsqueeze(-1)
    chosen = torch.stack(trials).view(len(trials), batch, _TRIALS)
    chosen = chosen.gather(-1, torch.stack(best).unsqueeze(-1)).squeeze(-1)
    return torch.cat([centre.unsqueeze(-1), chosen.T], -1)


def _member(labels: Tensor, n_clusters: int, dtype: torch.dtype) -> Tensor:
    """Indicator (B, M, N). torch's one_hot would synchronise a GPU."""
    clusters = torch.arange(n_clusters, device=labels.device).unsqueeze(-1)
    return (labels.unsqueeze(-2) == clusters).to(dtype)


def _sums(matrix: Tensor, labels: Tensor, n_clusters: int) -> Tensor:
    """Sums (B, M, D) of the rows of `matrix` (B, N, D) over each cluster of `labels` (B, N)."""
    if labels.device.type != "cpu":  # a GPU would add the rows in no fixed order
        return _member(labels, n_clusters, matrix.dtype) @ matrix
    batch, _, width = matrix.shape
    sums = matrix.new_zeros(batch * n_clusters, width)
    sums.index_add_(0, _apart(labels, n_clusters), matrix.reshape(-1, width))
    return sums.view(batch, n_clusters, width)


def _counts(labels: Tensor, n_clusters: int) -> Tensor:
    """Tokens per cluster (B, M), int64."""
    if labels.device.type != "cpu":
        return _member(labels, n_clusters, torch.int64).sum(-1)
    batch = len(labels)
    counts = torch.bincount(_apart(labels, n_clusters), minlength=batch * n_clusters)
    return counts.view(batch, n_clusters)


def _apart(labels: Tensor, n_clusters: int) -> Tensor:
    """Labels (B, N) with a range of their own for every item, flattened."""
    if len(labels) == 1:
        return labels[0]
    items = torch.arange(0, len(labels) * n_clusters, n_clusters, device=labels.device)
    return (labels + items.unsqueeze(-1)).flatten()


def _within(sums: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """From the sums (B, M, N) of Gram matrices: of each token's row over its own cluster (B, N),
    and of those over the cluster (B, M), which is the squared length of the sum of its tokens."""
    own = sums.gather(1, labels.unsqueeze(1)).squeeze(1)
    return own, _sums(own.unsqueeze(-1), labels, sums.shape[1]).squeeze(-1)


def _nearest(distance: Tensor, empty: Tensor | None, unit: bool) -> tuple[Tensor, Tensor]:
    """Whole distance (B, N) to the nearest cluster, and the first such cluster, from (B, M, N)."""
    n_clusters = distance.shape[1]
    bits = (n_clusters - 1).bit_length()
    # One integer holds distance and cluster: a minimum is far cheaper than an argmin. Squared
    # distances of unit tokens are at most 4 * 2^16.
    whole = torch.int32 if unit and bits <= 12 else torch.int64
    clusters = torch.arange(n_clusters, dtype=whole, device=distance.device).unsqueeze(-1)
    key = distance.to(whole).bitwise_left_shift_(bits).bitwise_or_(clusters)
    if empty is not None:
        key.masked_fill_(empty.unsqueeze(-1), torch.iinfo(whole).max)
    key = key.amin(1)
    return key >> bits, (key & ((1 << bits) - 1)).long()


def _refill(labels: Tensor, own: Tensor, counts: Tensor) -> Tensor:
    """Give each empty cluster the farthest token that does not represent its own cluster.

    `own` (B, N) are whole squared distances to the own centroid, `counts` (B, M) the tokens of the
    clusters of `labels`. The nearest token of every cluster stays, so none is emptied. A token on
    its centroid is never moved: with fewer distinct tokens than clusters, clusters stay empty.
    """
    size, n_clusters = labels.shape[-1], counts.shape[-1]
    bits = (size - 1).bit_length()
    key = (own.long() << bits) | torch.arange(size, device=labels.device)
    nearest = torch.full_like(counts, torch.iinfo(torch.int64).max)
    nearest = nearest.scatter_reduce(-1, labels, key, "amin")
    protected = nearest.gather(-1, labels) == key
    far, tokens = torch.where(protected, -1, own).sort(dim=-1, descending=True, stable=True)
    empty = counts == 0
    rank = (empty.cumsum(-1) - 1).clamp(0, size - 1)
    move = empty & (far.gather(-1, rank) > 0)
    target = torch.where(move, tokens.gather(-1, rank), size)  # column `size` takes the rest
    clusters = torch.arange(n_clusters, device=labels.device).expand_as(target)
    padded = torch.cat([labels, labels[:, :1]], -1)
    return padded.scatter(-1, target, clusters)[:, :size]


def _lloyd(matrix: Tensor, labels: Tensor, n_clusters: int, *, n_iter: int, unit: bool) -> Tensor:
    """Labels (B, N) after up to `n_iter` iterations on Gram matrices (B, N, N).

    On a CPU, which may look at the data, items at rest leave the batch.
    """
    eager = matrix.device.type == "cpu"
    norms = matrix.diagonal(dim1=-2, dim2=-1)
    grid = _GRID / norms.mean(-1, keepdim=True)
    active, result = torch.arange(len(labels), device=labels.device), labels
    counts = _counts(labels, n_clusters)
    complete = (counts > 0).all(-1)
    for iteration in range(n_iter):
        sums = _sums(matrix, labels, n_clusters)
        share = 1 / counts.clamp_min(1).to(sums.dtype)
        lengths = _within(sums, labels)[1] * share.square()
        scale = (grid * -2 * share).unsqueeze(-1)
        if unit:
            distance = sums.mul_(scale).add_((1 + lengths).mul_(grid).unsqueeze(-1))
        else:
            distance = sums.mul_(scale).add_((lengths * grid).unsqueeze(-1))
            distance.add_((norms * grid).unsqueeze(-2))
        distance.round_().clamp_min_(0)
        full = eager and bool(complete.all())
        own, following = _nearest(distance, None if full else counts == 0, unit)
        counts = _counts(following, n_clusters)
        complete = (counts > 0).all(-1)
        refill = iteration % _REFILL_EVERY == 0 or iteration == n_iter - 1
        if refill and not (eager and bool(complete.all())):
            following = _refill(following, own, counts)
            counts = _counts(following, n_clusters)
        previous, labels = labels, following
        if not eager:
            result = labels
            continue
        # A fixed point is final, unless a later search for empty clusters could end it.
        rest = (previous == labels).all(-1) & (complete | refill)
        at_rest = int(rest.sum())
        if at_rest == len(rest) or iteration == n_iter - 1:
            result = result.index_copy(0, active, labels)
            break
        if 2 * at_rest >= len(rest):
            result = result.index_copy(0, active, labels)
            stay = (~rest).nonzero().squeeze(-1)
            active, labels, matrix, norms, grid, counts, complete = (
                part[stay] for part in (active, labels, matrix, norms, grid, counts, complete)
            )
    return result


def cluster(
    matrix: Tensor, n_clusters: int, *, random_state: int | Sequence[int], n_iter: int, unit: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`kmeans` of validated Gram matrices (B, N, N), with a diagonal of ones if `unit`.

    Returns labels (B, N), counts (B, M), distances (B, N) and the sums (B, M, N) of the rows of
    `matrix` over the clusters.
    """
    batch, size, _ = matrix.shape
    norms = matrix.diagonal(dim1=-2, dim2=-1)
    pairwise = (norms.unsqueeze(-1) + norms.unsqueeze(-2)).sub_(matrix, alpha=2)
    pairwise = pairwise.div_(norms.mean(-1)[:, None, None] / _GRID).round_().clamp_min_(0)
    seeds = item_seeds(random_state, batch)
    centres = _seed(pairwise, _draws(seeds, n_clusters, matrix.device))
    rows = pairwise.view(-1, size).index_select(0, _apart(centres, size))
    _, labels = _nearest(rows.view(batch, n_clusters, size), None, unit)
    labels = _lloyd(matrix, labels, n_clusters, n_iter=n_iter, unit=unit)
    sums, counts = _sums(matrix, labels, n_clusters), _counts(labels, n_clusters)
    own, within = _within(sums, labels)
    lengths = within / counts.clamp_min(1).square()
    distances = norms - 2 * own / counts.gather(-1, labels) + lengths.gather(-1, labels)
    return labels, counts, distances.clamp_min_(0), sums


def clusters_of_unit_gram(
    matrix: Tensor, n_clusters: int, *, random_state: int | Sequence[int], n_iter: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Labels, counts and distances of `kmeans` by `lib.kernels`, where `fast(matrix)` holds.

    `matrix` (..., N, N) must have a diagonal of ones: the kernels count distances in int32.
    """
    lead, size = matrix.shape[:-2], matrix.shape[-1]
    flat = matrix.reshape(-1, size, size)
    seeds = item_seeds(random_state, flat.shape[0])
    uniforms = _uniforms(seeds, n_clusters, torch.float64, matrix.device)
    labels, counts, distances = fast(matrix).kmeans(
        flat, n_clusters, uniforms, n_iter=n_iter, refill_every=_REFILL_EVERY
    )
    return (
        labels.reshape(*lead, size),
        counts.reshape(*lead, n_clusters),
        distances.reshape(*lead, size),
    )


@torch.no_grad()
@full_precision
def kmeans(
    tokens: Tensor,
    n_clusters: int,
    *,
    random_state: int | Sequence[int] = 0,
    n_iter: int = 20,
    gram: bool = False,
    check: bool = True,
) -> KMeans:
    """Cluster unit-normalised tokens (..., N, D) into at most `n_clusters` by Euclidean distance.

    Greedy k-means++ seeding (4 candidates a step), then up to `n_iter` Lloyd iterations. An int
    `random_state` gives every item of a batch the same random numbers, so batched and single
    results agree; a sequence gives one seed per item. An empty cluster receives the farthest token
    that represents nothing else. With `gram` the first argument is a Gram matrix (..., N, N).

    Raises:
        ValueError: n_clusters outside 1..N, n_iter < 1, bad tokens.

    >>> tokens = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> result = kmeans(tokens, 2)
    >>> result.counts.tolist(), bool(result.labels[0] == result.labels[1])
    ([2, 2], True)
    """
    matrix = _as_gram(tokens, gram_given=gram, check=check)
    size = matrix.shape[-1]
    if not 1 <= n_clusters <= size:
        raise ValueError(
            f"n_clusters must be between 1 and N={size}, got {n_clusters} "
            f"for shape {tuple(tokens.shape)}"
        )
    if n_iter < 1:
        raise ValueError(f"n_iter must be at least 1, got {n_iter}")
    if not gram and fast(matrix) is not None:
        labels, counts, distances = clusters_of_unit_gram(
            matrix, n_clusters, random_state=random_state, n_iter=n_iter
        )
        centroids = fast(matrix).centroid_gram(matrix, labels, n_clusters, unit=True)
        return KMeans(labels, centroids, distances, counts, distances.sum(-1))
    lead = matrix.shape[:-2]
    labels, counts, distances, sums = cluster(
        matrix.reshape(-1, size, size),
        n_clusters,
        random_state=random_state,
        n_iter=n_iter,
        unit=not gram,
    )
    per_token = 1 / counts.clamp_min(1).to(sums.dtype)
    centroids = _sums(sums.mT, labels, n_clusters) * per_token.unsqueeze(-1)
    centroids = centroids * per_token.unsqueeze(-2)
    centroids = (centroids + centroids.mT) / 2
    return KMeans(
        labels.reshape(*lead, size),
        centroids.reshape(*lead, n_clusters, n_clusters),
        distances.reshape(*lead, size),
        counts.reshape(*lead, n_clusters),
        distances.sum(-1).reshape(lead),
    )


@torch.no_grad()
@full_precision
def centroid_gram(
    tokens: Tensor, labels: Tensor, n_clusters: int, *, gram: bool = False, check: bool = True
) -> Tensor:
    """Inner products (..., M, M) of the mean unit tokens of given clusters (eq. 4).

    Applies one assignment `labels` (..., N) to the tokens (..., N, D) of any layer. Rows of empty
    clusters are zero.

    >>> centroid_gram(torch.eye(3), torch.tensor([0, 0, 1]), 2).tolist()
    [[0.5, 0.0], [0.0, 1.0]]
    """
    if labels.shape != tokens.shape[:-1]:
        raise ValueError(
            f"labels must have shape {tuple(tokens.shape[:-1])}, got {tuple(labels.shape)}"
        )
    tokens = (
        _as_gram(tokens, gram_given=True, check=check) if gram else unit_tokens(tokens, check=check)
    )
    if gram and (kernels := fast(tokens)) is not None:
        return kernels.centroid_gram(tokens, labels, n_clusters)
    flat = labels.reshape(-1, labels.shape[-1])
    counts = _counts(flat, n_clusters).clamp_min(1).unsqueeze(-1)
    half = _sums(tokens.reshape(*flat.shape, -1), flat, n_clusters) / counts
    product = _sums(half.mT, flat, n_clusters) / counts if gram else half @ half.mT
    product = (product + product.mT) / 2
    return product.reshape(*labels.shape[:-1], n_clusters, n_clusters)
