"""Lloyd's iterations in Gram space, batched, with whole distances."""

from __future__ import annotations

import torch
from torch import Tensor

GRID = 2.0**16  # squared distances are compared on a grid of 1/65536 of the mean squared norm
#: The seeding adds distances up, and a sum of rounded numbers errs by far more than what rounding
#: alone disturbed: its grid is this much finer, and sums of a thousand tokens still are exact.
FINER = 2.0**16
REFILL_EVERY = 5  # iterations between two searches for empty clusters


def membership(labels: Tensor, n_clusters: int, dtype: torch.dtype) -> Tensor:
    """Indicator (B, M, N). torch's one_hot would synchronise a GPU.

    >>> membership(torch.tensor([[0, 1, 0]]), 2, torch.int64).tolist()
    [[[1, 0, 1], [0, 1, 0]]]
    """
    clusters = torch.arange(n_clusters, device=labels.device).unsqueeze(-1)
    return (labels.unsqueeze(-2) == clusters).to(dtype)


def row_sums(matrix: Tensor, labels: Tensor, n_clusters: int) -> Tensor:
    """Sums (B, M, D) of the rows of `matrix` (B, N, D) over each cluster of `labels` (B, N).

    >>> row_sums(torch.tensor([[[1.0], [2.0], [4.0]]]), torch.tensor([[0, 1, 0]]), 2).tolist()
    [[[5.0], [2.0]]]
    """
    if labels.device.type != "cpu":  # a GPU would add the rows in no fixed order
        return membership(labels, n_clusters, matrix.dtype) @ matrix
    batch, _, width = matrix.shape
    sums = matrix.new_zeros(batch * n_clusters, width)
    sums.index_add_(0, apart(labels, n_clusters), matrix.reshape(-1, width))
    return sums.view(batch, n_clusters, width)


def cluster_sizes(labels: Tensor, n_clusters: int) -> Tensor:
    """Tokens per cluster (B, M), int64.

    >>> cluster_sizes(torch.tensor([[0, 2, 0]]), 3).tolist()
    [[2, 0, 1]]
    """
    if labels.device.type != "cpu":
        return membership(labels, n_clusters, torch.int64).sum(-1)
    batch = len(labels)
    counts = torch.bincount(apart(labels, n_clusters), minlength=batch * n_clusters)
    return counts.view(batch, n_clusters)


def apart(labels: Tensor, n_clusters: int) -> Tensor:
    """Labels (B, N) with a range of their own for every item, flattened.

    >>> apart(torch.tensor([[0, 1], [1, 0]]), 2).tolist()
    [0, 1, 3, 2]
    """
    if len(labels) == 1:
        return labels[0]
    items = torch.arange(0, len(labels) * n_clusters, n_clusters, device=labels.device)
    return (labels + items.unsqueeze(-1)).flatten()


def own_sums(sums: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """From the sums (B, M, N) of Gram matrices: of each token's row over its own cluster (B, N),
    and of those over the cluster (B, M), which is the squared length of the sum of its tokens.

    >>> matrix, labels = torch.eye(3).unsqueeze(0), torch.tensor([[0, 1, 0]])
    >>> [part.tolist() for part in own_sums(row_sums(matrix, labels, 2), labels)]
    [[[1.0, 1.0, 1.0]], [[2.0, 1.0]]]
    """
    own = sums.gather(1, labels.unsqueeze(1)).squeeze(1)
    return own, row_sums(own.unsqueeze(-1), labels, sums.shape[1]).squeeze(-1)


def nearest_cluster(distance: Tensor, empty: Tensor | None, unit: bool) -> tuple[Tensor, Tensor]:
    """Whole distance (B, N) to the nearest cluster, and the first such cluster, from (B, M, N).

    >>> distance = torch.tensor([[[5.0, 1.0], [3.0, 1.0]]])
    >>> [part.tolist() for part in nearest_cluster(distance, None, True)]
    [[[3, 1]], [[1, 0]]]
    """
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


def refilled(labels: Tensor, own: Tensor, counts: Tensor) -> Tensor:
    """Give each empty cluster the farthest token that does not represent its own cluster.

    `own` (B, N) are whole squared distances to the own centroid, `counts` (B, M) the tokens of the
    clusters of `labels`. The nearest token of every cluster stays, so none is emptied. A token on
    its centroid is never moved: with fewer distinct tokens than clusters, clusters stay empty.

    >>> labels, own = torch.tensor([[0, 0, 0]]), torch.tensor([[1, 9, 4]])
    >>> refilled(labels, own, torch.tensor([[3, 0]])).tolist()
    [[0, 1, 0]]
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


def lloyd(matrix: Tensor, labels: Tensor, n_clusters: int, *, n_iter: int, unit: bool) -> Tensor:
    """Labels (B, N) after up to `n_iter` iterations on Gram matrices (B, N, N).

    On a CPU, which may look at the data, items at rest leave the batch.

    >>> matrix = torch.eye(2).repeat_interleave(2, 0).repeat_interleave(2, 1).unsqueeze(0)
    >>> lloyd(matrix, torch.tensor([[0, 1, 1, 1]]), 2, n_iter=5, unit=True).tolist()
    [[0, 0, 1, 1]]
    """
    eager = matrix.device.type == "cpu"
    norms = matrix.diagonal(dim1=-2, dim2=-1)
    grid = GRID / norms.mean(-1, keepdim=True)
    active, result = torch.arange(len(labels), device=labels.device), labels
    counts = cluster_sizes(labels, n_clusters)
    complete = (counts > 0).all(-1)
    for iteration in range(n_iter):
        sums = row_sums(matrix, labels, n_clusters)
        share = 1 / counts.clamp_min(1).to(sums.dtype)
        lengths = own_sums(sums, labels)[1] * share.square()
        scale = (grid * -2 * share).unsqueeze(-1)
        if unit:
            distance = sums.mul_(scale).add_((1 + lengths).mul_(grid).unsqueeze(-1))
        else:
            distance = sums.mul_(scale).add_((lengths * grid).unsqueeze(-1))
            distance.add_((norms * grid).unsqueeze(-2))
        distance.round_().clamp_min_(0)
        full = eager and bool(complete.all())
        own, following = nearest_cluster(distance, None if full else counts == 0, unit)
        counts = cluster_sizes(following, n_clusters)
        complete = (counts > 0).all(-1)
        refill = iteration % REFILL_EVERY == 0 or iteration == n_iter - 1
        if refill and not (eager and bool(complete.all())):
            following = refilled(following, own, counts)
            counts = cluster_sizes(following, n_clusters)
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
