"""Greedy choices, token by token: by entropy, by determinant, by Rényi-2, and this study's own."""

from __future__ import annotations

import torch
from torch import Tensor

from ..entropy import full_precision
from ..entropy.gram import as_gram
from ..entropy.quadrature import kernel_quadrature, node_count, quadrature
from ..kernels import Backend, backend_for
from .ranking import best, check_k, mask_of

#: nodes of the kernels, a power of two: gains err by less than 1e-4 of their spread
_FEW = {"default": 16, "reach": 5.5}


def _forward(
    matrix: Tensor, k: int, t: Tensor, w: Tensor, cover: Tensor | None, backend: Backend
) -> Tensor:
    """Greedy forward selection, picks (B, k) in order, on Gram matrices (B, N, N).

    Adding token i to S raises F by -∫ log u_i(t) dt, u_i the share of token i that K_S + t does not
    explain: (c_i + t - k_iS (K_S + t)⁻¹ k_Si) / (c_i + t). The gain is the sum over nodes of
    w log u, plus `cover` (B, 1) times what i adds to Σ_j max_{s in S} K_js. Each node keeps an
    incremental Cholesky factor: O(Q N k²) in all.
    """
    if backend and len(t) <= 32:
        if cover is None:
            return backend.kernels.forward(-matrix.square().sum(-1), k, spectral=(matrix, t, w))
        factor = cover.expand(matrix.shape[:-1])
        first = factor * matrix.clamp_min(0).sum(-1)
        return backend.kernels.forward(first, k, spectral=(matrix, t, w), cover=(matrix, factor))
    batch, size, _ = matrix.shape
    items = torch.arange(batch, device=matrix.device) * size
    diagonal = matrix.diagonal(dim1=-2, dim2=-1).unsqueeze(1) + t.unsqueeze(-1)  # (B, Q, N)
    pivots = diagonal
    factor = matrix.new_zeros(batch, len(t), k, size)
    flat = matrix.reshape(-1, size)
    uncovered = torch.empty_like(matrix) if cover is not None else None
    covered = matrix.new_zeros(batch, 1, size)
    barred, picks = matrix.new_zeros(batch, size), []
    for step in range(k):
        if step == 0 and cover is None:
            # every single token has entropy 0: take the least redundant
            gain = -matrix.square().sum(-1)
        else:
            gain = (pivots / diagonal).log_().mul_(w.unsqueeze(-1)).sum(-2)
            if cover is not None:
                torch.sub(matrix, covered, out=uncovered)
                gain = gain + cover * uncovered.clamp_min_(0).sum(-1)
        pick = best(gain, barred)
        picks.append(pick)
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
    return torch.stack(picks, -1)


def _batched(
    tokens: Tensor, k: int, backend: Backend, gram: bool, check: bool, exact: bool = False
) -> tuple[Tensor, torch.Size]:
    """Validated Gram matrices (B, N, N) of mean diagonal one, and the shape (..., N) of a mask."""
    matrix = as_gram(tokens, backend, gram_given=gram, check=check, exact=exact)
    size = matrix.shape[-1]
    check_k(k, size, tokens.shape)
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
    all are equal, is the least redundant (smallest Σ_j K_ij²). By default the integral has as many
    `nodes` as the type takes, 16 in the kernels. `random_state` is not used.

    Raises:
        ValueError: k outside 1..N, bad tokens.

    >>> greedy(torch.eye(3).repeat(2, 1), 3).tolist()
    [True, True, True, False, False, False]
    """
    del random_state
    backend = backend_for(tokens)
    matrix, shape = _batched(tokens, k, backend, gram, check)
    if backend and nodes is None:
        t, w = kernel_quadrature(None, matrix, **_FEW)
    else:
        nodes = node_count(nodes, matrix.dtype)
        t, w = quadrature(nodes, shape[-1], matrix.dtype, matrix.device)
    return mask_of(_forward(matrix, k, t, w, None, backend), shape[-1]).reshape(shape)


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
    backend = backend_for(tokens)
    matrix, shape = _batched(tokens, k, backend, gram, check, exact=not backend)
    t = matrix.new_full((1,), ridge)
    picks = _forward(matrix, k, t, torch.ones_like(t), None, backend)
    return mask_of(picks, shape[-1]).reshape(shape)


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
    backend = backend_for(tokens)
    matrix, shape = _batched(tokens, k, backend, gram, check)
    squares = matrix.square()
    flat, items = squares.view(-1, shape[-1]), torch.arange(len(squares), device=matrix.device)
    barred = matrix.new_zeros(squares.shape[:-1])
    cost = squares.sum(-1)  # the first token is the least redundant one
    for step in range(k):
        pick = best(-cost, barred)
        row = flat.index_select(0, pick + items * shape[-1])
        cost = row if step == 0 else cost + row
    return (barred < 0).reshape(shape)


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
    backend = backend_for(tokens)
    matrix, shape = _batched(tokens, k, backend, gram, check)
    t, w = quadrature(node_count(nodes, matrix.dtype), shape[-1], matrix.dtype, matrix.device)
    spread = (1 - matrix.mean((-2, -1))).clamp_min(1e-6).unsqueeze(-1)
    picks = _forward(matrix, k, t, w, cover / spread if cover else None, backend)
    return mask_of(picks, shape[-1]).reshape(shape)
