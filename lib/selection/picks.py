"""Greedy rules that need one cheap update a pick: spread, coverage, quality times diversity.

Each returns the picks in the order they are made, so that a smaller choice is a prefix of every
larger one. Near-ties go to the lower index, as everywhere in this package.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..entropy import full_precision
from ..entropy.gram import as_gram
from ..kernels import backend_for
from .ranking import best, check_k


@torch.no_grad()
@full_precision
def farthest_points(tokens: Tensor, k: int, *, gram: bool = False, check: bool = True) -> Tensor:
    """Indices (..., k) of tokens (..., N, D) that lie far apart in cosine distance, greedily.

    The first is the token farthest from its nearest other token, each next one the token farthest
    from those picked (max-min diversity, within a factor of two of the best set). Copies of picked
    tokens, at distance zero, come last and by index.

    Raises:
        TypeError, ValueError: k outside 1..N, bad tokens.

    >>> farthest_points(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]]), 3).tolist()
    [3, 0, 2]
    """
    backend = backend_for(tokens)
    matrix = as_gram(tokens, backend, gram_given=gram, check=check)
    size = matrix.shape[-1]
    check_k(k, size, tokens.shape)
    distances = (1 - matrix).clamp_min(0).reshape(-1, size, size)
    own = torch.eye(size, dtype=torch.bool, device=matrix.device)
    nearest = distances.masked_fill(own, torch.inf).amin(-1) if size > 1 else distances[..., 0]
    if backend:
        picks = backend.kernels.farthest(distances, nearest, k)
        return picks.reshape(*matrix.shape[:-2], k)
    spread = torch.full_like(nearest, torch.inf)

    def gains(pick: Tensor | None) -> Tensor:
        if pick is None:
            return nearest
        torch.minimum(spread, _row(distances, pick), out=spread)
        return spread

    return _picks(gains, k, nearest).reshape(*matrix.shape[:-2], k)


@torch.no_grad()
@full_precision
def facility_location(
    rows: Tensor, k: int, *, weights: Tensor | None = None, check: bool = True
) -> Tensor:
    """Indices (..., k) of columns of `rows` (..., M, N) whose largest entries add up to the most.

    What is covered is Σ_m max over the picked columns of rows_mn, from zero on (facility location;
    maximum coverage where rows are soft memberships). Each pick has the largest gain, times
    `weights` (..., N) if there are any.

    Raises:
        ValueError: k outside 1..N, weights of another shape; with `check`, NaN.

    >>> facility_location(torch.tensor([[0.9, 0.0, 0.8], [0.0, 0.5, 0.6]]), 2).tolist()
    [2, 0]
    """
    size = rows.shape[-1]
    check_k(k, size, rows.shape)
    if weights is not None and weights.shape != (*rows.shape[:-2], size):
        raise ValueError(
            f"weights must have shape {(*rows.shape[:-2], size)}, got {tuple(weights.shape)}"
        )
    if check and bool(rows.isnan().any() or (weights is not None and weights.isnan().any())):
        raise ValueError(f"rows and weights must not be NaN, rows of shape {tuple(rows.shape)}")
    table = rows if rows.dtype == torch.float64 else rows.float()
    table = table.reshape(-1, *rows.shape[-2:])
    # columns as rows, so that a pick reads one stretch of memory and sums run along it
    table = table.mT.contiguous()  # (B, N, M)
    scale = None if weights is None else weights.to(table.dtype).reshape(-1, size)
    if backend := backend_for(rows):
        first = table.clamp_min(0).sum(-1)
        if scale is not None:
            first = first * scale
        picks = backend.kernels.forward(first, k, cover=(table, scale))
        return picks.reshape(*rows.shape[:-2], k)
    covered = table.new_zeros(len(table), 1, table.shape[-1])
    missing = torch.empty_like(table)

    def gains(pick: Tensor | None) -> Tensor:
        if pick is not None:
            torch.maximum(covered, _row(table, pick).unsqueeze(1), out=covered)
        gain = torch.sub(table, covered, out=missing).clamp_min_(0).sum(-1)
        return gain if scale is None else gain * scale

    return _picks(gains, k, table[..., 0]).reshape(*rows.shape[:-2], k)


@torch.no_grad()
@full_precision
def conditional_dpp(
    tokens: Tensor, quality: Tensor, k: int, *, floor: float = 1e-5, gram: bool = False,
    check: bool = True,
) -> Tensor:  # fmt: skip
    """Indices (..., k): the greedy mode of a determinantal process with a quality a token.

    Each pick adds the most to log det of diag(q) K diag(q) over the picked, K the cosines of tokens
    (..., N, D) and q = `quality` (..., N) (fast greedy MAP inference, arXiv 1709.05135). What is
    left of a token, orthogonal to those picked, counts as at least `floor` of it: below that it is
    rounding. So tokens that are explained altogether are ranked by quality.

    Raises:
        ValueError: k outside 1..N, a quality of another shape; with `check`, one that is negative
            or NaN; bad tokens.

    >>> conditional_dpp(torch.eye(3), torch.tensor([0.5, 2.0, 1.0]), 2).tolist()
    [1, 2]
    """
    backend = backend_for(tokens)
    matrix = as_gram(tokens, backend, gram_given=gram, check=check, exact=not backend)
    size = matrix.shape[-1]
    check_k(k, size, tokens.shape)
    if quality.shape != matrix.shape[:-1]:
        raise ValueError(
            f"quality must have shape {tuple(matrix.shape[:-1])}, got {tuple(quality.shape)}"
        )
    if check and not bool((quality >= 0).all()):
        raise ValueError(f"quality must not be negative or NaN, least {quality.min().item()}")
    # what is left after many picks is small against what was there
    kernel = matrix.double().reshape(-1, size, size)
    scale = quality.to(kernel.dtype).reshape(-1, size)
    kernel = kernel * scale.unsqueeze(-1) * scale.unsqueeze(-2)
    whole = kernel.diagonal(dim1=-2, dim2=-1)
    least = whole * floor
    picks = backend.kernels.volume(kernel, least, k) if backend else None
    if picks is not None:
        return picks.reshape(*matrix.shape[:-2], k)
    left = whole.clone()
    factor = kernel.new_zeros(len(kernel), k, size)
    tiny = torch.finfo(kernel.dtype).tiny
    made = 0

    def gains(pick: Tensor | None) -> Tensor:
        nonlocal made
        if pick is not None:
            at = pick[:, None, None].expand(-1, made, 1)
            own = factor[:, :made].gather(-1, at)  # (B, made, 1)
            new = _row(kernel, pick) - (own.mT @ factor[:, :made]).squeeze(-2)
            new = new * left.gather(-1, pick[:, None]).clamp_min(tiny).rsqrt()
            factor[:, made] = new
            torch.maximum(left.sub_(new.square()), least, out=left)
            made += 1
        return left

    return _picks(gains, k, whole).reshape(*matrix.shape[:-2], k)


def _picks(gains: Callable[[Tensor | None], Tensor], k: int, like: Tensor) -> Tensor:
    """k picks (B, k), each the best by `gains` of the pick before it; `like` is (B, N)."""
    barred = torch.zeros_like(like)
    picks: list[Tensor] = []
    for _ in range(k):
        picks.append(best(gains(picks[-1] if picks else None), barred))
    return torch.stack(picks, -1)


def _row(table: Tensor, pick: Tensor) -> Tensor:
    """Row `pick` (B,) of each of (B, N, M)."""
    items = torch.arange(len(table), device=table.device) * table.shape[1]
    return table.reshape(-1, table.shape[-1]).index_select(0, pick + items)
