"""Order, ranks and masks in which near-ties go by index, and what a kept set covers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..entropy.gram import as_gram
from ..kernels import backend_for

_LEVELS = 2.0**16  # scores are compared on this many levels between their extremes


def quantise(values: Tensor) -> Tensor:
    """Values on a grid between the finite extremes of each row, so that near-ties become ties.

    >>> quantise(torch.tensor([0.0, 1e-6, 0.5, 1.0])).tolist()
    [0.0, 0.0, 32768.0, 65536.0]
    """
    finite = values.abs() < torch.inf  # torch.isfinite is four operations
    low = values.nan_to_num(torch.inf, torch.inf, torch.inf).amin(-1, keepdim=True)
    high = values.nan_to_num(-torch.inf, -torch.inf, -torch.inf).amax(-1, keepdim=True)
    # Scores that differ by rounding alone must not be spread over the whole grid.
    span = torch.maximum(high - low, 1e-6 * torch.maximum(high, -low)).clamp_min(1e-30)
    return torch.where(finite, ((values - low) / span * _LEVELS).round(), values)


def best(values: Tensor, barred: Tensor) -> Tensor:
    """Index (B,) of the largest of `values` (B, N) but for those where `barred` is -inf, not 0.

    The first of those within half a level of the grid of `quantise`. The index is then barred, too.

    >>> best(torch.tensor([[1.0, 0.0, 1.0 + 1e-6]]), torch.zeros(1, 3)).tolist()
    [0]
    """
    high = (values + barred).amax(-1, keepdim=True)
    low = (values - barred).amin(-1, keepdim=True)
    span = torch.maximum(high - low, 1e-6 * high.abs())
    ties = values + barred >= torch.add(high, span, alpha=-0.5 / _LEVELS)
    positions = torch.arange(values.shape[-1], device=values.device)
    pick = torch.where(ties, positions, values.shape[-1] - 1).amin(-1, keepdim=True)
    barred.scatter_(-1, pick, -torch.inf)
    return pick.squeeze(-1)


def first_largest(values: Tensor, *, within: float = 1e-6) -> Tensor:
    """Index (...) of the largest of `values` (..., N): the first of those `within` of it.

    >>> first_largest(torch.tensor([0.5, 1.0, 1.0 + 1e-7])).tolist()
    1
    """
    high = values.amax(-1, keepdim=True)
    positions = torch.arange(values.shape[-1], device=values.device)
    return torch.where(values >= high - within, positions, values.shape[-1] - 1).amin(-1)


def order_of(values: Tensor, *, descending: bool) -> Tensor:
    """Indices that sort the last dimension, ties by index.

    >>> order_of(torch.tensor([2.0, 3.0, 2.0]), descending=True).tolist()
    [1, 0, 2]
    """
    return quantise(values).sort(dim=-1, descending=descending, stable=True).indices


def rank_of(order: Tensor) -> Tensor:
    """The inverse permutation: the position of every element in `order`.

    >>> rank_of(torch.tensor([2, 0, 1])).tolist()
    [1, 2, 0]
    """
    positions = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, positions)


def mask_of(indices: Tensor, size: int) -> Tensor:
    """Boolean mask (..., size) that is true at `indices` (..., k).

    >>> mask_of(torch.tensor([0, 2]), 3).tolist()
    [True, False, True]
    """
    mask = torch.zeros(*indices.shape[:-1], size, dtype=torch.bool, device=indices.device)
    return mask.scatter_(-1, indices, True)


def check_k(k: int, size: int, shape: Sequence[int]) -> None:
    """Refuse a budget that is no number of tokens.

    Raises:
        ValueError: k outside 1..N = `size`, or no integer.

    >>> check_k(4, 3, (3, 8))
    Traceback (most recent call last):
    ValueError: k must be an integer between 1 and N=3, got 4 for shape (3, 8)
    """
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
    return _leading(scores, k, check).sort(dim=-1).values


def top_mask(scores: Tensor, k: int, *, check: bool = True) -> Tensor:
    """`top_k` as a mask (..., N), for which nothing has to be put in order.

    >>> top_mask(torch.tensor([0.1, 0.9, 0.5, 0.9]), 2).tolist()
    [False, True, False, True]
    """
    return mask_of(_leading(scores, k, check), scores.shape[-1])


def _leading(scores: Tensor, k: int, check: bool) -> Tensor:
    """Indices (..., k) of the k largest scores, the largest first."""
    check_k(k, scores.shape[-1], scores.shape)
    if check and bool(scores.isnan().any()):
        where = scores.isnan().nonzero()[0].tolist()
        raise ValueError(f"scores must not be NaN, found one at {where} of {tuple(scores.shape)}")
    scores = scores if scores.dtype == torch.float64 else scores.float()
    return order_of(scores, descending=True)[..., :k]


def coverage(tokens: Tensor, mask: Tensor, *, gram: bool = False, check: bool = True) -> Tensor:
    """Mean over all tokens of the largest cosine to a kept token, shape (...); 1 if all are kept.

    The entropy of the kept set measures its diversity; this measures how well it stands for what
    was dropped. `mask` is (..., N) bool.

    Raises:
        TypeError: tokens that are no floating-point tensor.
        ValueError: a mask of another type or shape, or that keeps nothing; bad tokens.

    >>> print(f"{coverage(torch.eye(4), torch.tensor([True, True, False, False])):.2f}")
    0.50
    """
    matrix = as_gram(tokens, backend_for(tokens), gram_given=gram, check=check)
    if mask.dtype != torch.bool or mask.shape != matrix.shape[:-1]:
        raise ValueError(
            f"mask must be bool of shape {tuple(matrix.shape[:-1])}, "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    if check and not bool(mask.any(-1).all()):
        raise ValueError(f"mask of shape {tuple(mask.shape)} keeps no token of some item")
    return matrix.masked_fill(~mask.unsqueeze(-2), -torch.inf).amax(-1).mean(-1)
