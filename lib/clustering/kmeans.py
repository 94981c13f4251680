"""K-means of tokens, and the Gram matrix of given clusters' centroids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..entropy import full_precision, unit_tokens
from ..entropy.gram import as_gram, checked_gram
from ..kernels import PLAIN, Backend, backend_for
from .lloyd import (
    FINER,
    GRID,
    REFILL_EVERY,
    apart,
    cluster_sizes,
    lloyd,
    nearest_cluster,
    own_sums,
    row_sums,
)
from .seeding import draws, greedy_centres, item_seeds, uniforms


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


def check_clusters(n_clusters: int, n_iter: int, shape: Sequence[int], size: int) -> None:
    """Refuse numbers that `kmeans` cannot cluster `size` tokens of `shape` with.

    Raises:
        ValueError: n_clusters outside 1..N, n_iter < 1.

    >>> check_clusters(5, 20, (3, 2), 3)
    Traceback (most recent call last):
    ValueError: n_clusters must be between 1 and N=3, got 5 for shape (3, 2)
    """
    if not 1 <= n_clusters <= size:
        raise ValueError(
            f"n_clusters must be between 1 and N={size}, got {n_clusters} for shape {tuple(shape)}"
        )
    if n_iter < 1:
        raise ValueError(f"n_iter must be at least 1, got {n_iter}")


class Clusters(NamedTuple):
    """What `clusters_of` finds: labels (..., N), counts (..., M) and distances (..., N)."""

    labels: Tensor
    counts: Tensor
    distances: Tensor


def clusters_of(
    matrix: Tensor,
    n_clusters: int,
    *,
    random_state: int | Sequence[int],
    n_iter: int,
    unit: bool,
    backend: Backend = PLAIN,
) -> Clusters:
    """`kmeans` of validated Gram matrices (..., N, N), with a diagonal of ones if `unit`.

    The plain route works in float64, and gives distances of that type. The kernels take
    float32, and tokens of any length if their diagonal has a mean of one; they sum whole numbers.

    >>> clusters_of(torch.eye(3), 3, random_state=0, n_iter=1, unit=True).counts.tolist()
    [1, 1, 1]
    """
    lead, size = matrix.shape[:-2], matrix.shape[-1]
    flat = matrix.reshape(-1, size, size)
    seeds = item_seeds(random_state, len(flat))
    if backend:
        numbers = uniforms(seeds, n_clusters, torch.float64, matrix.device)
        found = backend.kernels.kmeans(
            flat, n_clusters, numbers, n_iter=n_iter, refill_every=REFILL_EVERY, unit=unit
        )
    else:
        found = _plainly(flat, n_clusters, draws(seeds, n_clusters, matrix.device), n_iter, unit)
    return Clusters(*(part.reshape(*lead, part.shape[-1]) for part in found))


def _plainly(
    matrix: Tensor, n_clusters: int, numbers: Sequence[Tensor], n_iter: int, unit: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Labels (B, N), counts (B, M) and distances (B, N) of Gram matrices (B, N, N), in float64."""
    matrix = matrix.double()
    batch, size, _ = matrix.shape
    norms = matrix.diagonal(dim1=-2, dim2=-1)
    pairwise = (norms.unsqueeze(-1) + norms.unsqueeze(-2)).sub_(matrix, alpha=2)
    pairwise = pairwise.mul_((GRID * FINER / norms.mean(-1))[:, None, None]).round_()
    pairwise.masked_fill_(pairwise < FINER / 2, 0)  # copies
    centres = greedy_centres(pairwise, numbers)
    rows = pairwise.view(-1, size).index_select(0, apart(centres, size)).div_(FINER).round_()
    _, labels = nearest_cluster(rows.view(batch, n_clusters, size), None, unit)
    labels = lloyd(matrix, labels, n_clusters, n_iter=n_iter, unit=unit)
    members = cluster_sizes(labels, n_clusters)
    own, lengths = own_sums(row_sums(matrix, labels, n_clusters), labels)
    lengths = lengths / members.clamp_min(1).square()
    distances = norms - 2 * own / members.gather(-1, labels) + lengths.gather(-1, labels)
    return labels, members, distances.clamp_min_(0)


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
    that represents nothing else. With `gram` the first argument is a Gram matrix (..., N, N), whose
    tokens are clustered as they are: `kmeans(tokens @ tokens.mT, m, gram=True)` minds their length.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: n_clusters outside 1..N, n_iter < 1, bad tokens.

    >>> tokens = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> result = kmeans(tokens, 2)
    >>> result.counts.tolist(), bool(result.labels[0] == result.labels[1])
    ([2, 2], True)
    """
    backend = backend_for(tokens)
    kernels = backend if not gram else PLAIN
    matrix = as_gram(tokens, kernels, gram_given=gram, check=check, exact=not kernels)
    check_clusters(n_clusters, n_iter, tokens.shape, matrix.shape[-1])
    labels, members, distances = clusters_of(
        matrix,
        n_clusters,
        random_state=random_state,
        n_iter=n_iter,
        unit=not gram,
        backend=kernels,
    )
    centroids = means_of_gram(matrix, labels, n_clusters, backend=kernels)
    dtype = torch.float64 if tokens.dtype == torch.float64 else torch.float32
    distances = distances.to(dtype)
    return KMeans(labels, centroids.to(dtype), distances, members, distances.sum(-1))


@torch.no_grad()
@full_precision
def centroid_gram(
    tokens: Tensor, labels: Tensor, n_clusters: int, *, gram: bool = False, check: bool = True
) -> Tensor:
    """Inner products (..., M, M) of the mean unit tokens of given clusters (eq. 4).

    Applies one assignment `labels` (..., N) to the tokens (..., N, D) of any layer. Rows of empty
    clusters are zero. With `gram` the first argument is a Gram matrix (..., N, N).

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: labels of another shape, bad tokens.

    >>> centroid_gram(torch.eye(3), torch.tensor([0, 0, 1]), 2).tolist()
    [[0.5, 0.0], [0.0, 1.0]]
    """
    if labels.shape != tokens.shape[:-1]:
        raise ValueError(
            f"labels must have shape {tuple(tokens.shape[:-1])}, got {tuple(labels.shape)}"
        )
    if gram:
        backend, matrix = backend_for(tokens), checked_gram(tokens, check=check)
        return means_of_gram(matrix, labels, n_clusters, backend=backend)
    return means_of_rows(unit_tokens(tokens, check=check), labels, n_clusters)


def means_of_gram(
    matrix: Tensor, labels: Tensor, n_clusters: int, *, backend: Backend = PLAIN
) -> Tensor:
    """`centroid_gram` of validated Gram matrices (..., N, N).

    >>> means_of_gram(torch.eye(3), torch.tensor([0, 0, 1]), 2).tolist()
    [[0.5, 0.0], [0.0, 1.0]]
    """
    if backend:
        return backend.kernels.centroid_gram(matrix, labels, n_clusters)
    flat = labels.reshape(-1, labels.shape[-1])
    members = cluster_sizes(flat, n_clusters).clamp_min(1).unsqueeze(-1)
    half = row_sums(matrix.reshape(*flat.shape, matrix.shape[-1]), flat, n_clusters) / members
    return _symmetric(row_sums(half.mT, flat, n_clusters) / members, labels)


def means_of_rows(rows: Tensor, labels: Tensor, n_clusters: int) -> Tensor:
    """Inner products (..., M, M) of the means over clusters of rows (..., N, D), as they are.

    >>> means_of_rows(2 * torch.eye(3), torch.tensor([0, 0, 1]), 2).tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    """
    flat = labels.reshape(-1, labels.shape[-1])
    members = cluster_sizes(flat, n_clusters).clamp_min(1).unsqueeze(-1)
    means = row_sums(rows.reshape(*flat.shape, rows.shape[-1]), flat, n_clusters) / members
    return _symmetric(means @ means.mT, labels)


def _symmetric(product: Tensor, labels: Tensor) -> Tensor:
    """Products (B, M, M), symmetric to the last bit, in the leading shape of labels (..., N)."""
    product = (product + product.mT) / 2
    return product.reshape(*labels.shape[:-1], *product.shape[-2:])
