"""K-means in Gram space: no iteration depends on the width of the tokens.

Distances between unit tokens and centroids follow from the Gram matrix alone (kernel k-means with
a linear kernel), so clustering N tokens of width D costs O(N²D) once and O(N²M) per iteration.
Everything is batched with static shapes: an item's result does not depend on its neighbours, and
with `check=False` a CUDA call never waits for the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lib.entropy import _as_gram, constants, fast, full_precision, unit_tokens

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


def item_seeds(random_state: int | Sequence[int], items: int) -> tuple[int, ...]:
    """One seed for all items (given an int), or one per item of the flattened batch."""
    seeds = (random_state,) if isinstance(random_state, int) else tuple(random_state)
    if len(seeds) not in (1, items):
        raise ValueError(f"random_state needs one seed or one per item ({items}), got {len(seeds)}")
    return seeds


def _membership(labels: Tensor, n_clusters: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Indicator (..., N, M) and counts (..., M). torch's one_hot would synchronise a GPU."""
    clusters = torch.arange(n_clusters, device=labels.device)
    member = (labels.unsqueeze(-1) == clusters).to(dtype)
    return member, member.sum(-2)


def _seed(distance: Tensor, n_clusters: int, uniforms: Tensor) -> Tensor:
    """Greedy k-means++: M centres (B, M) from pairwise squared distances (B, N, N)."""
    batch, size, _ = distance.shape
    uniforms = uniforms.expand(batch, -1, -1)
    centre = (uniforms[:, 0, :1] * size).long().clamp_max(size - 1)
    centres = [centre]
    closest = distance.gather(1, centre.unsqueeze(-1).expand(-1, -1, size)).squeeze(1)
    for step in range(1, n_clusters):
        # Sums in float64, so that the order of summation cannot change a choice.
        cumulative = closest.cumsum(-1, dtype=torch.float64)
        targets = (uniforms[:, step] * cumulative[:, -1:]).contiguous()
        trials = torch.searchsorted(cumulative, targets, right=True).clamp_max(size - 1)
        rows = distance.gather(1, trials.unsqueeze(-1).expand(-1, -1, size))
        rows = torch.minimum(rows, closest.unsqueeze(1))
        best = rows.sum(-1, dtype=torch.float64).argmin(-1, keepdim=True)
        centres.append(trials.gather(1, best))
        closest = rows.gather(1, best.unsqueeze(-1).expand(-1, -1, size)).squeeze(1)
    return torch.cat(centres, 1)


def _refill(labels: Tensor, distance: Tensor, n_clusters: int) -> Tensor:
    """Give each empty cluster the farthest token that does not represent its own cluster.

    The nearest token of every cluster stays, so none is emptied. A token on its centroid is never
    moved: with fewer distinct tokens than clusters, clusters stay empty. `distance` is (B, N, M).
    """
    size = labels.shape[-1]
    own = distance.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    member, counts = _membership(labels, n_clusters, distance.dtype)
    nearest = torch.where(member > 0, distance, torch.inf).argmin(-2)  # (B, M)
    protected = torch.zeros_like(own).scatter_add(-1, nearest, (counts > 0).to(own.dtype)) > 0
    far, tokens = torch.where(protected, -1, own).sort(dim=-1, descending=True, stable=True)
    empty = counts == 0
    rank = (empty.cumsum(-1) - 1).clamp(0, size - 1)
    move = empty & (far.gather(-1, rank) > 0)
    target = torch.where(move, tokens.gather(-1, rank), size)  # column `size` takes the rest
    clusters = torch.arange(n_clusters, device=labels.device).expand_as(target)
    padded = torch.cat([labels, labels[:, :1]], -1)
    return padded.scatter(-1, target, clusters)[:, :size]


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
        centroids = centroid_gram(matrix, labels, n_clusters, gram=True, check=False)
        return KMeans(labels, centroids, distances, counts, distances.sum(-1))
    lead = matrix.shape[:-2]
    matrix = matrix.reshape(-1, size, size)
    norms = matrix.diagonal(dim1=-2, dim2=-1)
    unit = norms.mean(-1)[:, None, None] / _GRID

    pairwise = norms.unsqueeze(-1) + norms.unsqueeze(-2) - 2 * matrix
    pairwise = (pairwise / unit).round().clamp_min(0)
    seeds = item_seeds(random_state, matrix.shape[0])
    uniforms = _uniforms(seeds, n_clusters, torch.float64, matrix.device)
    centres = _seed(pairwise, n_clusters, uniforms)
    labels = pairwise.gather(1, centres.unsqueeze(-1).expand(-1, -1, size)).argmin(1)

    def to_centroids(labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        member, counts = _membership(labels, n_clusters, matrix.dtype)
        mean = member / counts.clamp_min(1).unsqueeze(-2)
        product = matrix @ mean  # (B, N, M), token · centroid
        lengths = (mean * product).sum(-2, keepdim=True)
        return norms.unsqueeze(-1) - 2 * product + lengths, counts, mean, product

    for iteration in range(n_iter):
        distance, counts, _, _ = to_centroids(labels)
        distance = (distance / unit).round().clamp_min(0)
        distance = torch.where(counts.unsqueeze(-2) > 0, distance, torch.inf)
        previous, labels = labels, distance.argmin(-1)
        refill = iteration % _REFILL_EVERY == 0 or iteration == n_iter - 1
        if refill:
            labels = _refill(labels, distance, n_clusters)
        # A fixed point of an iteration with refill is final; asking would make a GPU wait.
        if refill and labels.device.type == "cpu" and torch.equal(previous, labels):
            break

    distance, counts, mean, product = to_centroids(labels)
    distances = distance.gather(-1, labels.unsqueeze(-1)).squeeze(-1).clamp_min(0)
    centroids = mean.mT @ product
    centroids = (centroids + centroids.mT) / 2
    return KMeans(
        labels.reshape(*lead, size),
        centroids.reshape(*lead, n_clusters, n_clusters),
        distances.reshape(*lead, size),
        counts.long().reshape(*lead, n_clusters),
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
    member, counts = _membership(labels, n_clusters, tokens.dtype)
    mean = member / counts.clamp_min(1).unsqueeze(-2)
    half = mean.mT @ tokens
    product = half @ (mean if gram else half.mT)
    return (product + product.mT) / 2
