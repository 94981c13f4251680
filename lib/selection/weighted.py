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

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..entropy import full_precision
from ..entropy.gram import as_gram
from ..kernels import Backend, backend_for
from .ranking import best, check_k, mask_of, order_of
from .terms import Coverage, Entropy, Modular, Part, Volume, weigh


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
    priority: Tensor | None = None,
    one_shot: bool = False,
    nodes: int = 8,
    gram: bool = False,
    check: bool = True,
) -> Tensor:
    """The order (..., k) in which k of the tokens (..., N, D) are picked, int64.

    Args:
        weights: (..., N), not negative, of any scale; None or all zero: equal.
        worth: what is maximised; by default coverage alone.
        first: how many of the picks go, before all others, to the largest of `priority` (..., N),
            or of the weights.
        one_shot: rank once by what the worth of all tokens would lose with each, instead of picking
            one by one.
        nodes: quadrature points of the entropy; of one-shot losses, as many as the type takes.
        gram: `tokens` are cosines (..., N, N) with a diagonal of one.

    Near-ties go to the lower index.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: k outside 1..N, first outside 0..k, weights or priority of another
            shape; with `check`,
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
    ahead = weight if priority is None else priority.to(matrix.dtype)
    if ahead.shape != weight.shape:
        raise ValueError(
            f"priority must have shape {tuple(weight.shape)}, got {tuple(ahead.shape)}"
        )
    matrices, weight = matrix.reshape(-1, size, size), weight.reshape(-1, size)
    parts = _parts(matrices, weight, worth, nodes, k)
    how = _ranked if one_shot else _greedy
    if not one_shot and not worth.volume and (backend := backend_for(matrices)):
        how = functools.partial(_fused, backend)
    picks = how(parts, ahead.reshape(-1, size), k, first)
    return picks.reshape(*matrix.shape[:-2], k)


def weighted_operator(
    tokens: Tensor, weights: Tensor, *, gram: bool = False, check: bool = True
) -> Tensor:
    """ρ = W^½ K W^½ / tr W of tokens (..., N, D) and weights (..., N): the Gram matrix of tokens as
    long as their weights' roots, scaled to trace one, (..., N, N).

    >>> weighted_operator(torch.eye(4), torch.tensor([1.0, 0.0, 0.0, 0.0])).diagonal().tolist()
    [1.0, 0.0, 0.0, 0.0]
    """
    matrix = as_gram(tokens, backend_for(tokens), gram_given=gram, check=check)
    weight = _weights(weights, matrix, check)
    return weigh(matrix, weight) / matrix.shape[-1]


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


def _greedy(parts: list[Part], priority: Tensor, k: int, forced: int) -> Tensor:
    """k picks (B, k), each with the largest sum of gains; the first `forced` by priority alone."""
    barred, picks = torch.zeros_like(priority), []
    for step in range(k):
        gain = priority if step < forced else _total(part.gains() for part in parts)
        picks.append(best(gain, barred))
        if step + 1 < k:
            for part in parts:
                part.add(picks[-1])
    return torch.stack(picks, -1)


def _fused(backend: Backend, parts: list[Part], priority: Tensor, k: int, forced: int) -> Tensor:
    """As `_greedy`, by one kernel a pick."""
    gains = _total(part.gains() for part in parts)
    given: dict[str, Any] = {"own": torch.zeros_like(gains)}
    for part in parts:
        if isinstance(part, Coverage):
            given["cover"] = part.matrix * part.weight.unsqueeze(-2), None
        elif isinstance(part, Entropy):
            given["spectral"] = part.matrix, part.t, part.w * part.share
            given["own"] = given["own"] + part.own * part.share
        else:
            given["own"] = given["own"] + part.gains()
    return backend.kernels.forward(gains, k, priority=priority.contiguous(), ahead=forced, **given)


def _ranked(parts: list[Part], priority: Tensor, k: int, forced: int) -> Tensor:
    """The `forced` largest priorities and then the largest sums of losses, (B, k)."""
    first = order_of(priority, descending=True)[:, :forced]
    losses = _total(part.losses() for part in parts)
    losses = losses.masked_fill(mask_of(first, priority.shape[-1]), -torch.inf)
    return torch.cat([first, order_of(losses, descending=True)[:, : k - forced]], 1)


def _total(terms: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, terms)


def _parts(matrix: Tensor, weight: Tensor, worth: Worth, nodes: int, k: int) -> list[Part]:
    parts: list[Part] = []
    if worth.cover:
        parts.append(Coverage(matrix, weight, worth.cover))
    if worth.entropy:
        parts.append(Entropy(weigh(matrix, weight), worth.entropy, nodes, k))
    if worth.volume:
        parts.append(Volume(matrix, weight, worth.volume, k))
    if worth.relevance:
        parts.append(Modular(weight * worth.relevance))
    return parts
