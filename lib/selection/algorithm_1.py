"""Hierarchical pruning, the paper's Algorithm 1: clusters, their scores, the choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..clustering.kmeans import (
    Clusters,
    check_clusters,
    clusters_of,
    means_of_gram,
    means_of_rows,
)
from ..clustering.lloyd import GRID
from ..entropy import full_precision
from ..entropy.leave_one_out import scores_of_gram
from ..entropy.operator import operator_of_gram
from ..kernels import MAX_TOKENS, PLAIN, Backend
from ..rollout import VARIANTS, rolled_importance
from .layers import Layers, as_layers
from .ranking import check_k, mask_of, order_of, rank_of

WEIGHTINGS = ("unit", "mass", "token-sum")
CLUSTER_ON = ("raw", "unit")


class Selection(NamedTuple):
    """Result of `hierarchical` for tokens (..., N, D) and M clusters.

    Attributes:
        mask: (..., N) bool, the tokens kept.
        labels: (..., N) int64, the cluster of each token.
        cluster_scores: (..., M); -inf for an empty cluster.
        core: (..., M) bool, the core clusters.
    """

    mask: Tensor
    labels: Tensor
    cluster_scores: Tensor
    core: Tensor


@torch.no_grad()
@full_precision
def hierarchical(
    tokens: Tensor | None,
    n_clusters: int = 32,
    core_clusters: int = 16,
    tokens_per_cluster: int = 2,
    *,
    layers: Sequence[Tensor] | None = None,
    rollout: str = "literal",
    budget: int | str = "adaptive",
    weighting: str = "unit",
    cluster_on: str = "raw",
    random_state: int | Sequence[int] = 0,
    n_iter: int = 20,
    solver: str = "auto",
    gram: bool = False,
    check: bool = True,
) -> Selection:
    """Hierarchical pruning, the paper's Algorithm 1, of tokens (..., N, D).

    K-means into `n_clusters` centroids (eq. 4), a leave-one-out entropy score per centroid (eq. 5),
    the `core_clusters` best clusters stay, each with the `tokens_per_cluster` tokens nearest its
    centroid. A smaller cluster keeps all its members and nothing is filled up, so the count is at
    most core_clusters · tokens_per_cluster and varies by image.

    Args:
        layers: tokens (..., N, D_l) of layers l1 … l2, shallow first. The last is clustered, and
            `tokens` may be None. With several, the score is the diagonal of the rollout (eq. 6) of
            the entropy operators of every layer's centroids under that one clustering.
        rollout: "literal" (eq. 6), "scaled" or "scores", see `lib.rollout.rollout`.
        budget: "adaptive" is the paper. An integer k keeps exactly k tokens: Algorithm 1's choice,
            cut where it is too large (last-ranked members first, in the clusters of lowest score
            first) and filled up with the tokens of the core clusters that lie nearest their
            centroids, then from the other clusters in the order of their scores.
        weighting: "unit", the paper's unit centroids; "mass", each with the weight of its cluster;
            "token-sum" scores no centroid: a cluster's score is the sum of the exact leave-one-out
            scores (eq. 3) of its tokens.
        cluster_on: "raw" clusters the tokens t themselves, as eq. 4 and Algorithm 1 have it, so
            that their lengths count in distances and means; "unit" the unit tokens, by the angles
            between them. Either way centroids are scored at unit
            length (eq. 1). A Gram matrix is clustered as it is.
        random_state, n_iter: of `lib.clustering.kmeans`.
        solver: of `lib.entropy.leave_one_out`.
        gram: `tokens` and `layers` are Gram matrices (..., N, N).

    Raises:
        TypeError: tokens that are no floating-point tensor.
        ValueError: n_clusters outside 1..N, core_clusters outside 1..n_clusters,
            tokens_per_cluster < 1, a budget outside 1..N, unknown names, bad tokens.

    >>> tokens = torch.eye(4).repeat_interleave(3, 0)  # four groups of three copies
    >>> hierarchical(tokens, 4, 2, 2).mask.sum().item()
    4
    >>> hierarchical(tokens, 4, 2, 2, budget=7).mask.sum().item()
    7
    """
    _check_options(n_clusters, core_clusters, tokens_per_cluster, rollout, weighting, cluster_on)
    views = as_layers(tokens, layers, gram=gram)
    shape = views.views[-1].shape
    if budget != "adaptive":
        if isinstance(budget, str):
            raise ValueError(f'budget must be "adaptive" or an integer, got {budget!r}')
        check_k(budget, shape[-2], shape)
    check_clusters(n_clusters, n_iter, shape, shape[-2])
    if check:
        views.check()
    raw = cluster_on == "raw" and not gram
    many = views.clustering if raw and n_clusters <= MAX_TOKENS else PLAIN
    matrix = many.kernels.gram(views.views[-1], raw=True) if many else views.clustered(raw=raw)
    # a given matrix, and tokens as they are of layers of several shapes, are clustered in float64
    backend = many if gram or (raw and not views.alike) else views.backend
    clusters = clusters_of(
        matrix,
        n_clusters,
        random_state=random_state,
        n_iter=n_iter,
        unit=not (gram or raw),
        backend=backend,
    )
    if not views.alike:
        clusters = clusters._replace(distances=_without_rounding(clusters.distances, matrix))
    if weighting == "token-sum":
        scores = _token_sums(views, clusters, solver)
    else:
        centroids = _centroids(views, clusters, mass=weighting == "mass", raw=raw)
        scores = _scores(centroids, rollout, solver, many or views.backend)
    mask, core, scores = _choice(
        clusters,
        scores,
        core_clusters,
        tokens_per_cluster,
        None if budget == "adaptive" else budget,
        views,
    )
    return Selection(mask, clusters.labels, scores, core)


def _check_options(
    n_clusters: int,
    core_clusters: int,
    tokens_per_cluster: int,
    rollout: str,
    weighting: str,
    cluster_on: str,
) -> None:
    if rollout not in VARIANTS:
        raise ValueError(f"rollout must be one of {VARIANTS}, got {rollout!r}")
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting must be one of {WEIGHTINGS}, got {weighting!r}")
    if cluster_on not in CLUSTER_ON:
        raise ValueError(f"cluster_on must be one of {CLUSTER_ON}, got {cluster_on!r}")
    if not 1 <= core_clusters <= n_clusters:
        raise ValueError(
            f"core_clusters must be between 1 and n_clusters={n_clusters}, got {core_clusters}"
        )
    if tokens_per_cluster < 1:
        raise ValueError(f"tokens_per_cluster must be at least 1, got {tokens_per_cluster}")


def _without_rounding(distances: Tensor, matrix: Tensor) -> Tensor:
    """Distances (..., N) to centroids, zero for copies of them: rounding must not rank those."""
    least = matrix.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True) * (0.5 / GRID)
    return torch.where(distances < least, 0, distances)


def _token_sums(views: Layers, clusters: Clusters, solver: str) -> Tensor:
    """The sums (..., M) of the exact scores of each cluster's tokens, of one or more layers."""
    grams = views.stacked
    if grams is None:
        grams = torch.stack([views.gram_at(index) for index in range(len(views))])
    scores = scores_of_gram(grams, solver=solver, backend=views.backend, unit=not views.gram)
    sums = scores.new_zeros(*scores.shape[:-1], clusters.counts.shape[-1])
    sums = sums.scatter_add(-1, clusters.labels.expand(scores.shape), scores)
    return rolled_importance(sums, "scores")


def _scores(centroids: Tensor, rollout: str, solver: str, backend: Backend) -> Tensor:
    """Importance (..., M) of centroids from their Gram matrices (L, ..., M, M) (eq. 5 and 6)."""
    backend = backend.of_size(centroids.shape[-1])
    if len(centroids) == 1 or rollout == "scores":
        return rolled_importance(
            scores_of_gram(centroids, solver=solver, backend=backend), "scores"
        )
    return rolled_importance(operator_of_gram(centroids, solver=solver, backend=backend), rollout)


def _centroids(views: Layers, clusters: Clusters, *, mass: bool, raw: bool) -> Tensor:
    """Gram matrices (L, ..., M, M) of every layer's unit centroids (eq. 4, then eq. 1).

    With `mass` a centroid has the squared length of its cluster's size instead.
    """
    labels, counts, _ = clusters
    n_clusters = counts.shape[-1]
    stacked = views.stacked_raw if raw else views.stacked
    if stacked is not None:
        return views.backend.kernels.unit_centroids(stacked, labels, n_clusters, mass=mass)
    if raw:
        means = [means_of_rows(rows, labels, n_clusters) for rows in views.raw]
    elif views.gram:
        given = [views.gram_at(index) for index in range(len(views))]
        means = [means_of_gram(one, labels, n_clusters, backend=views.backend) for one in given]
    else:
        means = [means_of_rows(rows, labels, n_clusters) for rows in views.rows]
    matrix = torch.stack(means)
    length = matrix.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    weight = torch.where(length > 1e-6, 1 / length.clamp_min(1e-6), 0)
    if mass:
        weight = weight * counts.to(weight.dtype).sqrt()
    return matrix.mul_(weight.unsqueeze(-1)).mul_(weight.unsqueeze(-2)).to(views.dtype)


def _choice(
    clusters: Clusters,
    scores: Tensor,
    cores: int,
    per_cluster: int,
    budget: int | None,
    views: Layers,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mask (..., N) of the tokens kept, (..., M) of the core clusters, and scores (..., M)."""
    labels, counts, distances = clusters
    if views.alike:
        return views.backend.kernels.choose(
            scores, counts, labels, distances, cores=cores, per_cluster=per_cluster, budget=budget
        )
    scores = torch.where(counts > 0, scores, -torch.inf)
    size, n_clusters = labels.shape[-1], counts.shape[-1]
    cluster_rank = rank_of(order_of(scores, descending=True))
    core = (cluster_rank < cores) & (counts > 0)

    # The rank of each token within its cluster, by distance to the centroid.
    near = rank_of(order_of(distances, descending=False))
    by_cluster = rank_of((labels * size + near).argsort(dim=-1))
    first = (counts.cumsum(-1) - counts).gather(-1, labels)
    place = by_cluster - first
    in_core = core.gather(-1, labels)
    mask = in_core & (place < per_cluster)
    if budget is not None:
        rank = cluster_rank.gather(-1, labels)
        tier = size * size * 2  # larger than any key below
        key = torch.where(
            mask,
            place * n_clusters + rank,
            torch.where(in_core, tier + near, 2 * tier + rank * size + near),
        )
        mask = mask_of(key.argsort(dim=-1)[..., :budget], size)
    return mask, core, scores
