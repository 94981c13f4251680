"""From scores, clusters and a budget to the tokens that stay: Algorithm 1 and its alternatives.

Every selection returns a boolean mask (..., N) over the tokens in their original order. All are
deterministic: scores are compared on a grid and ties go to the lower index, so rounding that
differs between devices or batch sizes does not change the choice. `check=False` skips validating
the data; nothing then makes a GPU wait. Shapes are static, but for the greedy strategies a Python
loop runs over the k picks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .clustering import centroid_gram, clusters_of_unit_gram, item_seeds, kmeans
from .entropy import (
    _as_gram,
    _nodes,
    _quadrature,
    constants,
    entropy_operator,
    fast,
    full_precision,
    leave_one_out,
    unit_tokens,
)
from .rollout import VARIANTS, rolled_importance

WEIGHTINGS = ("unit", "mass", "token-sum")

_LEVELS = 2.0**16  # scores are compared on this many levels between their extremes


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


# --- ranking --------------------------------------------------------------------------------------


def _quantise(values: Tensor) -> Tensor:
    """Values on a grid between the finite extremes of each row, so that near-ties become ties."""
    finite = torch.isfinite(values)
    low = torch.where(finite, values, torch.inf).amin(-1, keepdim=True)
    high = torch.where(finite, values, -torch.inf).amax(-1, keepdim=True)
    # Scores that differ by rounding alone must not be spread over the whole grid.
    span = torch.maximum(high - low, 1e-6 * torch.maximum(low.abs(), high.abs())).clamp_min(1e-30)
    return torch.where(finite, ((values - low) / span * _LEVELS).round(), values)


def _best(values: Tensor, barred: Tensor) -> Tensor:
    """Index (B,) of the largest of `values` (B, N) but for those where `barred` is -inf, not 0.

    The first of those that `_quantise` would tie with it. The index is then barred, too.
    """
    high = (values + barred).amax(-1, keepdim=True)
    low = (values - barred).amin(-1, keepdim=True)
    span = torch.maximum(high - low, 1e-6 * high.abs())
    ties = values + barred >= torch.add(high, span, alpha=-0.5 / _LEVELS)
    positions = torch.arange(values.shape[-1], device=values.device)
    pick = torch.where(ties, positions, values.shape[-1] - 1).amin(-1, keepdim=True)
    barred.scatter_(-1, pick, -torch.inf)
    return pick.squeeze(-1)


def _order(values: Tensor, *, descending: bool) -> Tensor:
    """Indices that sort the last dimension, ties by index."""
    return _quantise(values).sort(dim=-1, descending=descending, stable=True).indices


def _rank(order: Tensor) -> Tensor:
    """The inverse permutation: the position of every element in `order`."""
    positions = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, positions)


def _mask(indices: Tensor, size: int) -> Tensor:
    """Boolean mask (..., size) that is true at `indices` (..., k)."""
    mask = torch.zeros(*indices.shape[:-1], size, dtype=torch.bool, device=indices.device)
    return mask.scatter_(-1, indices, True)


def _check_k(k: int, size: int, shape: Sequence[int]) -> None:
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= size:
        raise ValueError(
            f"k must be an integer between 1 and N={size}, got {k!r} for shape {tuple(shape)}"
        )


def top_k(scores: Tensor, k: int, *, check: bool = True) -> Tensor:
    """Indices (..., k) of the k largest scores (..., N), in original order; ties by index.

    Scores are first rounded to 1/65536 of their range, so that a choice does not hang on rounding.
    -inf marks entries to take last.

    Raises:
        ValueError: k outside 1..N; with `check`, a NaN score.

    >>> top_k(torch.tensor([0.1, 0.9, 0.5, 0.9]), 3).tolist()
    [1, 2, 3]
    """
    _check_k(k, scores.shape[-1], scores.shape)
    if check and bool(scores.isnan().any()):
        where = scores.isnan().nonzero()[0].tolist()
        raise ValueError(f"scores must not be NaN, found one at {where} of {tuple(scores.shape)}")
    scores = scores if scores.dtype == torch.float64 else scores.float()
    return _order(scores, descending=True)[..., :k].sort(dim=-1).values


def coverage(tokens: Tensor, mask: Tensor, *, gram: bool = False, check: bool = True) -> Tensor:
    """Mean over all tokens of the largest cosine to a kept token, shape (...); 1 if all are kept.

    The entropy of the kept set measures its diversity; this measures how well it stands for what
    was dropped. `mask` is (..., N) bool.

    >>> print(f"{coverage(torch.eye(4), torch.tensor([True, True, False, False])):.2f}")
    0.50
    """
    matrix = _as_gram(tokens, gram_given=gram, check=check)
    if mask.dtype != torch.bool or mask.shape != matrix.shape[:-1]:
        raise ValueError(
            f"mask must be bool of shape {tuple(matrix.shape[:-1])}, "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    if check and not bool(mask.any(-1).all()):
        raise ValueError(f"mask of shape {tuple(mask.shape)} keeps no token of some item")
    return matrix.masked_fill(~mask.unsqueeze(-2), -torch.inf).amax(-1).mean(-1)


# --- Algorithm 1 ----------------------------------------------------------------------------------


def _cluster_scores(
    views: Sequence[Tensor] | Tensor,
    labels: Tensor,
    counts: Tensor,
    *,
    last: Tensor | None,
    rollout: str,
    weighting: str,
    solver: str,
    gram: bool,
) -> Tensor:
    """Importance (..., M) of the clusters from the tokens of one or more layers.

    Views stacked in one tensor go through every step together. `last` is the `centroid_gram` of the
    last of views that are not.
    """
    n_clusters = counts.shape[-1]
    stacked, several = isinstance(views, Tensor), len(views) > 1
    options: dict[str, Any] = {"solver": solver, "check": False}
    if weighting == "token-sum":
        scores = [leave_one_out(v, gram=gram, **options) for v in ([views] if stacked else views)]
        scores = scores[0] if stacked else torch.stack(scores)
        zeros = scores.new_zeros(*scores.shape[:-1], n_clusters)
        merged = zeros.scatter_add(-1, labels.expand(scores.shape), scores)
    else:
        if stacked:
            labels = labels.expand(views.shape[:-1])
            centroids = fast(views).centroid_gram(views, labels, n_clusters, unit=True)
        else:
            centroids = torch.stack(
                [
                    centroid_gram(view, labels, n_clusters, gram=gram, check=False)
                    for view in views[:-1]
                ]
                + [last]
            )
        length = centroids.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
        # Unit centroids, as the Gram matrix of eq. 1 demands, or ones whose weight is their mass.
        weight = torch.where(length > 1e-6, 1 / length.clamp_min(1e-6), 0)
        if weighting == "mass":
            weight = weight * counts.to(weight.dtype).sqrt()
        centroids = centroids.mul_(weight.unsqueeze(-1)).mul_(weight.unsqueeze(-2))
        if not several or rollout == "scores":
            merged = leave_one_out(centroids, gram=True, **options)
        else:
            merged = entropy_operator(centroids, gram=True, **options)
    if several:
        scores = rolled_importance(merged, "scores" if weighting == "token-sum" else rollout)
    else:
        scores = merged[0]
    return torch.where(counts > 0, scores, -torch.inf)


def _views(tokens: Tensor | None, layers: Sequence[Tensor] | None) -> list[Tensor]:
    if layers is None:
        if tokens is None:
            raise ValueError("give tokens, layers or both; got neither")
        return [tokens]
    views = list(layers)
    if not views:
        raise ValueError("layers must hold at least one layer, got none")
    if any(view.shape[:-1] != views[-1].shape[:-1] for view in views):
        shapes = [tuple(view.shape) for view in views]
        raise ValueError(f"layers must agree in all but the last dimension, got {shapes}")
    if tokens is not None and tokens.shape[:-1] != views[-1].shape[:-1]:
        raise ValueError(
            f"tokens {tuple(tokens.shape)} and the last layer {tuple(views[-1].shape)} "
            "must describe the same tokens"
        )
    return views


def _stacked_grams(views: Sequence[Tensor], *, gram: bool) -> Tensor | None:
    """Gram matrices (L, ..., N, N) of tokens at all layers if `lib.kernels` serves them."""
    first = views[0]
    if gram or any(v.shape != first.shape or v.dtype != first.dtype for v in views):
        return None
    kernels = fast(first)
    return None if kernels is None else kernels.gram(torch.stack(list(views)))


@torch.no_grad()
@full_precision
def hierarchical(
    tokens: Tensor | None,
    n_clusters: int = 32,
    core_clusters: int = 16,
    tokens_per_cluster: int = 2,
    *,
    layers: Sequence[Tensor] | None = None,
    rollout: str = "scaled",
    budget: int | str = "adaptive",
    weighting: str = "unit",
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
        rollout: "scaled", "literal" or "scores", see `lib.rollout.rollout`.
        budget: "adaptive" is the paper. An integer k keeps exactly k tokens: Algorithm 1's choice,
            cut where it is too large (last-ranked members first, in the clusters of lowest score
            first) and filled up with the tokens of the core clusters that lie nearest their
            centroids, then from the other clusters in the order of their scores.
        weighting: "unit", the paper's unit centroids; "mass", each with the weight of its cluster;
            "token-sum", the sum of the cluster's exact token scores.
        random_state, n_iter: of `lib.clustering.kmeans`.
        solver: of `lib.entropy.leave_one_out`.
        gram: `tokens` and `layers` are Gram matrices (..., N, N).

    Raises:
        ValueError: n_clusters outside 1..N, core_clusters outside 1..n_clusters,
            tokens_per_cluster < 1, a budget outside 1..N, unknown names, bad tokens.

    >>> tokens = torch.eye(4).repeat_interleave(3, 0)  # four groups of three copies
    >>> hierarchical(tokens, 4, 2, 2).mask.sum().item()
    4
    >>> hierarchical(tokens, 4, 2, 2, budget=7).mask.sum().item()
    7
    """
    if rollout not in VARIANTS:
        raise ValueError(f"rollout must be one of {VARIANTS}, got {rollout!r}")
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting must be one of {WEIGHTINGS}, got {weighting!r}")
    if not 1 <= core_clusters <= n_clusters:
        raise ValueError(
            f"core_clusters must be between 1 and n_clusters={n_clusters}, got {core_clusters}"
        )
    if tokens_per_cluster < 1:
        raise ValueError(f"tokens_per_cluster must be at least 1, got {tokens_per_cluster}")
    views = _views(tokens, layers)
    size = views[-1].shape[-2]
    if budget != "adaptive":
        if isinstance(budget, str):
            raise ValueError(f'budget must be "adaptive" or an integer, got {budget!r}')
        _check_k(budget, size, views[-1].shape)
    if check:  # k-means looks at the last layer
        for view in views[:-1]:
            _as_gram(view, gram_given=True, check=True) if gram else unit_tokens(view)
    grams = _stacked_grams(views, gram=gram) if n_clusters <= size and n_iter >= 1 else None
    if grams is not None:
        if check:
            unit_tokens(views[-1])
        labels, counts, distances = clusters_of_unit_gram(
            grams[-1], n_clusters, random_state=random_state, n_iter=n_iter
        )
    else:
        last = kmeans(
            views[-1], n_clusters, random_state=random_state, n_iter=n_iter, gram=gram, check=check
        )
        labels, distances, counts = last.labels, last.distances, last.counts
    scores = _cluster_scores(
        views if grams is None else grams,
        labels,
        counts,
        last=None if grams is not None else last.centroid_gram,
        rollout=rollout,
        weighting=weighting,
        solver=solver,
        gram=gram or grams is not None,
    )
    if grams is not None:
        mask, core = fast(grams).choose(
            scores,
            counts,
            labels,
            distances,
            cores=core_clusters,
            per_cluster=tokens_per_cluster,
            budget=None if budget == "adaptive" else budget,
        )
        return Selection(mask, labels, scores, core)
    cluster_rank = _rank(_order(scores, descending=True))
    core = (cluster_rank < core_clusters) & (counts > 0)

    # The rank of each token within its cluster, by distance to the centroid.
    near = _rank(_order(distances, descending=False))
    by_cluster = _rank((labels * size + near).argsort(dim=-1))
    first = (counts.cumsum(-1) - counts).gather(-1, labels)
    place = by_cluster - first
    in_core = core.gather(-1, labels)
    mask = in_core & (place < tokens_per_cluster)
    if budget != "adaptive":
        rank = cluster_rank.gather(-1, labels)
        tier = size * size * 2  # larger than any key below
        key = torch.where(
            mask,
            place * n_clusters + rank,
            torch.where(in_core, tier + near, 2 * tier + rank * size + near),
        )
        mask = _mask(key.argsort(dim=-1)[..., :budget], size)
    return Selection(mask, labels, scores, core)


@torch.no_grad()
@full_precision
def token_level(
    tokens: Tensor | None,
    k: int,
    *,
    layers: Sequence[Tensor] | None = None,
    rollout: str = "scaled",
    method: str = "exact",
    solver: str = "auto",
    gram: bool = False,
    check: bool = True,
) -> Tensor:
    """One-shot choice of the k tokens with the largest scores; mask (..., N).

    One layer: the leave-one-out scores of `method`. Several `layers`: the diagonal of the rollout
    of their entropy operators, or for "scores" the merged leave-one-out scores.

    Raises:
        ValueError: k outside 1..N, unknown names, bad tokens.

    >>> token_level(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), 1).tolist()
    [False, False, True]
    """
    if rollout not in VARIANTS:
        raise ValueError(f"rollout must be one of {VARIANTS}, got {rollout!r}")
    views = _views(tokens, layers)
    size = views[-1].shape[-2]
    _check_k(k, size, views[-1].shape)
    options: dict[str, Any] = {"gram": gram, "solver": solver, "check": check}
    together = len(views) > 1 and rollout != "scores"
    if together and (grams := _stacked_grams(views, gram=gram)) is not None:
        if check:
            for view in views:
                unit_tokens(view)
        operators = entropy_operator(grams, gram=True, solver=solver, check=False)
        scores = rolled_importance(operators, rollout)
        return _mask(top_k(scores, k, check=check), size)
    if len(views) == 1:
        scores = leave_one_out(views[0], method, **options)
    elif rollout == "scores":
        each = [leave_one_out(view, method, **options) for view in views]
        scores = rolled_importance(each, "scores")
    else:
        operators = [entropy_operator(view, **options) for view in views]
        scores = rolled_importance(operators, rollout)
    return _mask(top_k(scores, k, check=check), size)


# --- greedy ---------------------------------------------------------------------------------------


def _forward(matrix: Tensor, k: int, t: Tensor, w: Tensor, cover: Tensor | None = None) -> Tensor:
    """Greedy forward selection, mask (B, N), on Gram matrices (B, N, N).

    Adding token i to S raises F by -∫ log u_i(t) dt, u_i the share of token i that K_S + t does not
    explain: (c_i + t - k_iS (K_S + t)⁻¹ k_Si) / (c_i + t). The gain is the sum over nodes of
    w log u, plus `cover` (B, 1) times what i adds to Σ_j max_{s in S} K_js. Each node keeps an
    incremental Cholesky factor: O(Q N k²) in all.
    """
    if len(t) <= 32 and (kernels := fast(matrix)) is not None:
        return kernels.forward(matrix, k, t, w, cover)
    batch, size, _ = matrix.shape
    items = torch.arange(batch, device=matrix.device) * size
    diagonal = matrix.diagonal(dim1=-2, dim2=-1).unsqueeze(1) + t.unsqueeze(-1)  # (B, Q, N)
    pivots = diagonal
    factor = matrix.new_zeros(batch, len(t), k, size)
    flat = matrix.reshape(-1, size)
    uncovered = torch.empty_like(matrix) if cover is not None else None
    covered = matrix.new_zeros(batch, 1, size)
    barred = matrix.new_zeros(batch, size)
    for step in range(k):
        if step == 0 and cover is None:
            # every single token has entropy 0: take the least redundant
            gain = -matrix.square().sum(-1)
        else:
            gain = (pivots / diagonal).log_().mul_(w.unsqueeze(-1)).sum(-2)
            if cover is not None:
                torch.sub(matrix, covered, out=uncovered)
                gain = gain + cover * uncovered.clamp_min_(0).sum(-1)
        pick = _best(gain, barred)
        at = pick[:, None, None]
        row = flat.index_select(0, pick + items).unsqueeze(1)  # (B, 1, N)
        if cover is not None:
            torch.maximum(covered, row, out=covered)
        done = factor[:, :, :step]
        own = done.gather(-1, at.unsqueeze(-1).expand(-1, len(t), step, 1))
        new = row - (own.mT @ done).squeeze(-2)
        new = new * pivots.gather(-1, at.expand(-1, len(t), 1)).rsqrt()
        factor[:, :, step] = new
        # No eigenvalue of K_S + t is below t, so no pivot is.
        pivots = torch.maximum(pivots - new.square_(), t.unsqueeze(-1))
    return barred < 0


def _batched(tokens: Tensor, k: int, gram: bool, check: bool) -> tuple[Tensor, torch.Size]:
    """Validated Gram matrices (B, N, N) of mean diagonal one, and the shape (..., N) of a mask."""
    matrix = _as_gram(tokens, gram_given=gram, check=check)
    size = matrix.shape[-1]
    _check_k(k, size, tokens.shape)
    if gram:
        matrix = matrix / matrix.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    return matrix.reshape(-1, size, size), matrix.shape[:-1]


@torch.no_grad()
@full_precision
def greedy(
    tokens: Tensor,
    k: int,
    *,
    nodes: int | None = None,
    gram: bool = False,
    check: bool = True,
    random_state: int = 0,
) -> Tensor:
    """Add k tokens one by one, each with the largest exact entropy of the kept set; mask (..., N).

    Among sets of one size the entropy is log k - F / k, and -F is submodular. Each step evaluates
    the exact increase of F for every token by the integral of `lib.entropy`; the first token, where
    all are equal, is the least redundant (smallest Σ_j K_ij²). `random_state` is not used.

    Raises:
        ValueError: k outside 1..N, bad tokens.

    >>> greedy(torch.eye(3).repeat(2, 1), 3).tolist()
    [True, True, True, False, False, False]
    """
    del random_state
    matrix, shape = _batched(tokens, k, gram, check)
    nodes = _nodes(nodes, matrix.dtype)
    t, w = _quadrature(nodes, shape[-1], matrix.dtype, matrix.device)
    return _forward(matrix, k, t, w).reshape(shape)


@torch.no_grad()
@full_precision
def dpp(
    tokens: Tensor,
    k: int,
    *,
    ridge: float = 1e-3,
    gram: bool = False,
    check: bool = True,
    random_state: int = 0,
) -> Tensor:
    """Greedy maximum of log det(K_S + ridge I), mask (..., N): the mode of a determinantal process.

    Fast greedy MAP inference (arXiv 1709.05135). `random_state` is not used.

    >>> dpp(torch.eye(3).repeat(2, 1), 3).sum().item()
    3
    """
    del random_state
    matrix, shape = _batched(tokens, k, gram, check)
    t = matrix.new_full((1,), ridge)
    return _forward(matrix, k, t, torch.ones_like(t)).reshape(shape)


@torch.no_grad()
@full_precision
def renyi2_greedy(
    tokens: Tensor, k: int, *, gram: bool = False, check: bool = True, random_state: int = 0
) -> Tensor:
    """Add k tokens one by one, each with the largest Rényi-2 entropy of the kept set.

    That entropy is 2 log k - log Σ_{a,b in S} K_ab²: the next token has the smallest sum of squared
    similarities to those kept, O(Nk) in all. Returns a mask (..., N); `random_state` is not used.

    >>> renyi2_greedy(torch.eye(3).repeat(2, 1), 3).sum().item()
    3
    """
    del random_state
    matrix, shape = _batched(tokens, k, gram, check)
    squares = matrix.square()
    flat, items = squares.view(-1, shape[-1]), torch.arange(len(squares), device=matrix.device)
    barred = matrix.new_zeros(squares.shape[:-1])
    cost = squares.sum(-1)  # the first token is the least redundant one
    for step in range(k):
        pick = _best(-cost, barred)
        row = flat.index_select(0, pick + items * shape[-1])
        cost = row if step == 0 else cost + row
    return (barred < 0).reshape(shape)


# --- strategies for comparison --------------------------------------------------------------------


def one_shot(tokens: Tensor, k: int, *, random_state: int = 0, **options: Any) -> Tensor:
    """The k largest exact leave-one-out scores, `token_level`; `random_state` is not used."""
    del random_state
    return token_level(tokens, k, **options)


def proportions(
    size: int,
    k: int,
    *,
    n_clusters: int | None = None,
    core_clusters: int | None = None,
    tokens_per_cluster: int | None = None,
) -> tuple[int, int, int]:
    """M, k_c and t_pc of Algorithm 1 for a budget of k of N = `size` tokens; those given are kept.

    By default k_c = N / 8, but no more than the budget and no more than 72, its value at the
    576 tokens of LLaVA-1.5, so that the cost grows slowly beyond; t_pc is what the budget needs of
    each core cluster, and M = 2 k_c. The paper: M = 32, k_c = 16, t_pc = 2 at N = 256. N / 8 was
    chosen on validation scenes, see `data/results/embedded-val/clusters.json`; the bound for cost.

    >>> proportions(256, 128), proportions(256, 32), proportions(576, 288)
    ((64, 32, 4), (64, 32, 1), (144, 72, 4))
    >>> proportions(256, 128, tokens_per_cluster=2)
    (128, 64, 2)
    """
    if core_clusters is not None:
        cores, per_cluster = core_clusters, tokens_per_cluster or -(-k // core_clusters)
    elif tokens_per_cluster is not None:
        cores, per_cluster = -(-k // tokens_per_cluster), tokens_per_cluster
    else:
        per_cluster = -(-k // min(k, max(1, size // 8), 72))
        cores = k // per_cluster  # k_c * t_pc, the adaptive count's bound, stays within the budget
    return n_clusters or min(size, 2 * cores), cores, per_cluster


def algorithm_1(
    tokens: Tensor, k: int, *, tokens_per_cluster: int | None = None, random_state: int = 0,
    **options: Any,
) -> Tensor:  # fmt: skip
    """Algorithm 1 at a budget of exactly k, with the numbers of `proportions`."""
    size = tokens.shape[-2]
    _check_k(k, size, tokens.shape)
    numbers = proportions(size, k, tokens_per_cluster=tokens_per_cluster)
    return hierarchical(tokens, *numbers, budget=k, random_state=random_state, **options).mask


def k_medoids(tokens: Tensor, k: int, *, random_state: int = 0, **options: Any) -> Tensor:
    """The token nearest each of k centroids: Algorithm 1 with M = k_c = k and t_pc = 1."""
    _check_k(k, tokens.shape[-2], tokens.shape)
    return hierarchical(tokens, k, k, 1, budget=k, random_state=random_state, **options).mask


@constants
def _permutations(seeds: tuple[int, ...], size: int, device: torch.device) -> Tensor:
    """Permutations (len(seeds), size), kept on the device."""
    rows = [torch.randperm(size, generator=torch.Generator().manual_seed(s)) for s in seeds]
    return torch.stack(rows).to(device)


@torch.no_grad()
def random(
    tokens: Tensor,
    k: int,
    *,
    random_state: int | Sequence[int] = 0,
    gram: bool = False,
    check: bool = True,
) -> Tensor:
    """k tokens at random; an int seed draws the same positions for every item of a batch."""
    shape = _as_gram(tokens, gram_given=True, check=check).shape if gram else tokens.shape
    lead, size = shape[:-2], shape[-2]
    _check_k(k, size, shape)
    items = lead.numel()
    order = _permutations(item_seeds(random_state, items), size, tokens.device)
    mask = _mask(order[:, :k], size)
    return mask.expand(items, -1).clone().reshape(*lead, size)


@torch.no_grad()
@full_precision
def adaptive(
    tokens: Tensor,
    k: int,
    *,
    cover: float = 1.0,
    nodes: int = 8,
    gram: bool = False,
    check: bool = True,
    random_state: int = 0,
) -> Tensor:
    """Coverage while tokens are few, entropy once they are plenty: this study's own choice.

    Greedy on the sum of two submodular gains: the exact entropy gain of `greedy`, and `cover` times
    the gain in Σ_j max_{s in S} K_js, in units of half the mean squared distance of two tokens,
    1 - mean K, which makes the weight independent of a direction that all tokens share. The gain in
    coverage shrinks with every pick while that in entropy does not. So the first picks stand for
    the large regions and later ones look for what is new, without a budget in the rule: a smaller
    selection is part of every larger one.

    Args:
        cover: weight of coverage; 0 is greedy entropy, infinity would be facility location.
        nodes: quadrature points of the entropy gain, which needs no more for a ranking.
        random_state: not used.

    Returns a mask (..., N) with exactly k tokens.

    Raises:
        ValueError: k outside 1..N, cover negative or infinite, bad tokens.

    >>> adaptive(torch.eye(3).repeat(2, 1), 3).tolist()
    [True, True, True, False, False, False]
    """
    del random_state
    if not 0 <= cover < float("inf"):
        raise ValueError(f"cover must be finite and not negative, got {cover}")
    matrix, shape = _batched(tokens, k, gram, check)
    t, w = _quadrature(_nodes(nodes, matrix.dtype), shape[-1], matrix.dtype, matrix.device)
    spread = (1 - matrix.mean((-2, -1))).clamp_min(1e-6).unsqueeze(-1)
    return _forward(matrix, k, t, w, cover / spread if cover else None).reshape(shape)


STRATEGIES: dict[str, Callable[..., Tensor]] = {
    "random": random,
    "one-shot": one_shot,
    "algorithm-1": algorithm_1,
    "greedy": greedy,
    "dpp": dpp,
    "renyi2-greedy": renyi2_greedy,
    "k-medoids": k_medoids,
    "adaptive": adaptive,
}
"""Name → callable(tokens (..., N, D), k, *, random_state, gram, check) → mask with exactly k."""
