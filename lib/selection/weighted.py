"""Greedy choices that weigh tokens by how much they are asked for, such as by attention.

With weights w of mean one, K the cosines of the tokens and ρ = W^½ K W^½ / N the weighted operator
of trace one, a kept set S is worth

    cover     · Σ_j w_j max_{s in S} K_js / spread     what the kept stand for, of what is asked for
  + entropy   · -N tr(ρ_S log ρ_S)                     what they hold of the operator's entropy
  + volume    · log det(W_S (K_S + ridge I))           a determinantal process of quality √w
  + relevance · Σ_{i in S} w_i                         what is asked for itself

The terms are submodular: a token adds the less, the more is kept. Since each gain is updated when a
token is picked, the choice is nested: a smaller one is a prefix of every larger one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..entropy import full_precision
from ..entropy.gram import as_gram
from ..entropy.leave_one_out import losses_of
from ..entropy.quadrature import node_count, quadrature, solver_for
from ..kernels import backend_for
from .ranking import best, check_k, mask_of, order_of

_RIDGE = 1e-3  # as `lib.selection.dpp`


@dataclass(frozen=True, kw_only=True)
class Worth:
    """How much each term counts; see the module.

    Raises `ValueError` for a negative or infinite number, and if all are zero.

    >>> Worth(cover=0.0)
    Traceback (most recent call last):
    ValueError: one of cover, entropy, volume and relevance must be positive, all are 0
    """

    cover: float = 1.0
    entropy: float = 0.0
    volume: float = 0.0
    relevance: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {value}")
        if not any(vars(self).values()):
            raise ValueError(f"one of {' and '.join(_TERMS)} must be positive, all are 0")


_TERMS = ("cover, entropy, volume", "relevance")


@torch.no_grad()
@full_precision
def weighted(
    tokens: Tensor,
    k: int,
    weights: Tensor | None = None,
    *,
    worth: Worth | None = None,
    first: int = 0,
    one_shot: bool = False,
    nodes: int = 8,
    gram: bool = False,
    check: bool = True,
) -> Tensor:
    """The order (..., k) in which k of the tokens (..., N, D) are picked, int64.

    Args:
        weights: (..., N), not negative, of any scale; None or all zero: equal.
        worth: what is maximised; by default coverage alone.
        first: how many of the picks go to the largest weights, before all others.
        one_shot: rank once by what the worth of all tokens would lose with each, instead of picking
            one by one.
        nodes: quadrature points of the entropy; of one-shot losses, as many as the type takes.
        gram: `tokens` are cosines (..., N, N) with a diagonal of one.

    Near-ties go to the lower index.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: k outside 1..N, first outside 0..k, weights of another shape; with `check`,
            weights that are negative or not finite; bad tokens.

    >>> tokens = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    >>> weighted(tokens, 1).tolist(), weighted(tokens, 1, torch.tensor([1.0, 1.0, 3.0])).tolist()
    ([1], [2])
    """
    worth = Worth() if worth is None else worth
    matrix = as_gram(tokens, backend_for(tokens), gram_given=gram, check=check)
    size = matrix.shape[-1]
    check_k(k, size, tokens.shape)
    if not 0 <= first <= k:
        raise ValueError(f"first must be in 0..k = {k}, got {first}")
    weight = _weights(weights, matrix, check)
    matrices, weight = matrix.reshape(-1, size, size), weight.reshape(-1, size)
    parts = _parts(matrices, weight, worth, nodes, k)
    picks = (_ranked if one_shot else _greedy)(parts, weight, k, first)
    return picks.reshape(*matrix.shape[:-2], k)


def weighted_operator(
    tokens: Tensor, weights: Tensor, *, gram: bool = False, check: bool = True
) -> Tensor:
    """ρ = W^½ K W^½ / tr W of tokens (..., N, D) and weights (..., N): the Gram matrix of tokens as
    long as their weights' roots, scaled to trace one, (..., N, N).

    >>> weighted_operator(torch.eye(2), torch.tensor([4.0, 0.0])).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    matrix = as_gram(tokens, backend_for(tokens), gram_given=gram, check=check)
    weight = _weights(weights, matrix, check)
    return _scaled(matrix, weight) / matrix.shape[-1]


def _weights(weights: Tensor | None, matrix: Tensor, check: bool) -> Tensor:
    """Weights (..., N) of mean one in the type of the matrix."""
    if weights is None:
        return matrix.new_ones(matrix.shape[:-1])
    if weights.shape != matrix.shape[:-1]:
        raise ValueError(
            f"weights must have shape {tuple(matrix.shape[:-1])}, got {tuple(weights.shape)}"
        )
    weights = weights.to(matrix.dtype)
    if check and not bool(((weights >= 0) & weights.isfinite()).all()):
        raise ValueError(f"weights must be finite and not negative, least {weights.min().item()}")
    mean = weights.mean(-1, keepdim=True)
    return torch.where(mean > 0, weights / torch.where(mean > 0, mean, 1), 1)


def _scaled(matrix: Tensor, weight: Tensor) -> Tensor:
    root = weight.sqrt()
    return matrix * root.unsqueeze(-1) * root.unsqueeze(-2)


class _Part(Protocol):
    """One term: what each token (B, N) would add now, or take away from all tokens."""

    def gains(self) -> Tensor: ...

    def add(self, pick: Tensor) -> None: ...

    def losses(self) -> Tensor: ...


def _greedy(parts: list[_Part], weight: Tensor, k: int, forced: int) -> Tensor:
    """k picks (B, k), each with the largest sum of gains; the first `forced` by weight alone."""
    barred, picks = torch.zeros_like(weight), []
    for step in range(k):
        gain = weight if step < forced else sum(part.gains() for part in parts)
        picks.append(best(gain, barred))
        if step + 1 < k:
            for part in parts:
                part.add(picks[-1])
    return torch.stack(picks, -1)


def _ranked(parts: list[_Part], weight: Tensor, k: int, forced: int) -> Tensor:
    """The `forced` largest weights and then the largest sums of losses, (B, k)."""
    first = order_of(weight, descending=True)[:, :forced]
    losses = sum(part.losses() for part in parts)
    losses = losses.masked_fill(mask_of(first, weight.shape[-1]), -torch.inf)
    return torch.cat([first, order_of(losses, descending=True)[:, : k - forced]], 1)


def _parts(matrix: Tensor, weight: Tensor, worth: Worth, nodes: int, k: int) -> list[_Part]:
    parts: list[_Part] = []
    if worth.cover:
        parts.append(_Coverage(matrix, weight, worth.cover))
    if worth.entropy:
        parts.append(_Entropy(_scaled(matrix, weight), worth.entropy, nodes, k))
    if worth.volume:
        parts.append(_Volume(matrix, weight, worth.volume, k))
    if worth.relevance:
        parts.append(_Modular(weight * worth.relevance))
    return parts


class _Modular:
    def __init__(self, values: Tensor) -> None:
        self.values = values

    def gains(self) -> Tensor:
        return self.values

    def add(self, pick: Tensor) -> None:
        pass

    losses = gains


class _Coverage:
    """Σ_j w_j max K_js, in units of the spread 1 - Σ w_i w_j K_ij / N² of the tokens."""

    def __init__(self, matrix: Tensor, weight: Tensor, factor: float) -> None:
        size = matrix.shape[-1]
        mean = (weight.unsqueeze(-2) @ matrix @ weight.unsqueeze(-1)).squeeze(-1) / size**2
        self.matrix = matrix
        self.weight = weight * factor / (1 - mean).clamp_min(1e-6)
        self.covered = torch.zeros_like(matrix[:, :1])
        self.missing = torch.empty_like(matrix)
        self.items = torch.arange(len(matrix), device=matrix.device) * size

    def gains(self) -> Tensor:
        missing = torch.sub(self.matrix, self.covered, out=self.missing).clamp_min_(0)
        return (missing @ self.weight.unsqueeze(-1)).squeeze(-1)

    def add(self, pick: Tensor) -> None:
        rows = self.matrix.reshape(-1, self.matrix.shape[-1])
        row = rows.index_select(0, pick + self.items).unsqueeze(1)
        torch.maximum(self.covered, row, out=self.covered)

    def losses(self) -> Tensor:
        """Every token covers itself best, so only it is covered less without it."""
        own = torch.eye(self.matrix.shape[-1], dtype=torch.bool, device=self.matrix.device)
        other = self.matrix.masked_fill(own, -torch.inf).amax(-1).clamp(0, 1)
        return self.weight * (1 - other)


class _Spectral:
    """Σ_q w_q log u_i(t_q), u_i the share of token i that the kept ones do not explain at t_q.

    u_i = (c_i + t - k_iS (K_S + t)⁻¹ k_Si) / (c_i + t), by an incremental Cholesky factor a node.
    """

    def __init__(self, matrix: Tensor, t: Tensor, w: Tensor, k: int) -> None:
        self.matrix, self.t, self.w = matrix, t, w
        self.factor, self.picked = matrix.new_zeros(len(matrix), len(t), k, matrix.shape[-1]), 0
        self.diagonal = matrix.diagonal(dim1=-2, dim2=-1).unsqueeze(1) + t.unsqueeze(-1)
        self.pivots = self.diagonal  # (B, Q, N)
        self.items = torch.arange(len(matrix), device=matrix.device) * matrix.shape[-1]

    def gains(self) -> Tensor:
        return (self.pivots / self.diagonal).log_().mul_(self.w.unsqueeze(-1)).sum(-2)

    def add(self, pick: Tensor) -> None:
        size = self.matrix.shape[-1]
        row = self.matrix.reshape(-1, size).index_select(0, pick + self.items).unsqueeze(1)
        at = pick[:, None, None]
        done = self.factor[:, :, : self.picked]
        own = done.gather(-1, at.unsqueeze(-1).expand(-1, *done.shape[1:3], 1))
        new = row - (own.mT @ done).squeeze(-2)
        new = new * self.pivots.gather(-1, at.expand(-1, len(self.t), 1)).rsqrt()
        self.factor[:, :, self.picked] = new
        self.picked += 1
        # No eigenvalue of K_S + t is below t, so no pivot is.
        self.pivots = torch.maximum(self.pivots - new.square(), self.t.unsqueeze(-1))


class _Entropy(_Spectral):
    """-N tr(ρ_S log ρ_S) of a Gram matrix of trace N: Σ c_i log N - F, F = Σ λ log λ of its part.

    Adding token i raises F by c_i log c_i - ∫ log u_i(t) dt.
    """

    def __init__(self, matrix: Tensor, share: float, nodes: int, k: int) -> None:
        size = matrix.shape[-1]
        t, w = quadrature(node_count(nodes, matrix.dtype), size, matrix.dtype, matrix.device)
        super().__init__(matrix, t, w, k)
        self.share = share
        c = matrix.diagonal(dim1=-2, dim2=-1)
        self.own = c * math.log(size) - torch.special.xlogy(c, c)

    def gains(self) -> Tensor:
        return self.share * (self.own + super().gains())

    def losses(self) -> Tensor:
        backend = backend_for(self.matrix)
        solver = solver_for("auto", self.matrix.device)
        working = self.matrix if solver == "cholesky" else self.matrix.double()
        losses, _ = losses_of(working, None, solver, backend)
        c = self.matrix.diagonal(dim1=-2, dim2=-1)
        return self.share * (c * math.log(c.shape[-1]) - losses.to(c.dtype))


class _Volume(_Spectral):
    """log det(W_S (K_S + ridge I)): gains log w_i + log of what is left of token i."""

    def __init__(self, matrix: Tensor, weight: Tensor, share: float, k: int) -> None:
        # float32 rounds at the size of the ridge's pivots once many tokens are picked
        matrix = matrix.double()
        super().__init__(matrix, matrix.new_full((1,), _RIDGE), matrix.new_ones(1), k)
        self.share = share
        tiny = torch.finfo(torch.float32).tiny
        self.own = (weight.double().clamp_min(tiny) * self.diagonal[:, 0]).log()

    def gains(self) -> Tensor:
        return self.share * (self.own + super().gains())

    def losses(self) -> Tensor:
        """log of the ratio of two determinants is that of the inverse's diagonal."""
        shifted = self.matrix + self.t * torch.eye(self.matrix.shape[-1], device=self.t.device)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(shifted, check_errors=False).L)
        left = inverse.diagonal(dim1=-2, dim2=-1).log()
        return self.share * (self.own - self.diagonal[:, 0].log() - left)
