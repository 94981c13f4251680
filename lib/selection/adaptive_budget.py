"""How many tokens an image needs, from how many directions its tokens span."""

from __future__ import annotations

import math

from torch import Tensor


def rank_budgets(
    rank: Tensor, k: int, typical: float, size: int, *, power: float = 1.0, bound: float = 2.0
) -> Tensor:
    """A budget for each image, int64 (...): k · (rank / typical)^power, between 1 and `most`.

    rank: (...), effective ranks (`lib.entropy.effective_rank`) or any other measure of size.
    typical: calibrated so that budgets average to k, see `typical_rank`. bound: no image gets more
    than `bound` · k tokens, nor more than the `size` it has; see `most_tokens`.

    Raises:
        ValueError: typical or power not positive, a bound below 1, k outside 1..size.

    >>> import torch
    >>> rank_budgets(torch.tensor([2.0, 4.0, 9.0]), 16, 4.0, 64).tolist()
    [8, 16, 32]
    """
    if not typical > 0 or not power > 0:
        raise ValueError(f"typical and power must be positive, got {typical} and {power}")
    wanted = k * (rank.double() / typical) ** power
    return (wanted + 0.5).floor().clamp(1, most_tokens(k, size, bound)).long()


def most_tokens(k: int, size: int, bound: float) -> int:
    """The largest budget that `rank_budgets` gives.

    Raises:
        ValueError: a bound below 1, k outside 1..size.

    >>> most_tokens(16, 24, 2.0)
    24
    """
    if not 1 <= bound < math.inf:
        raise ValueError(f"bound must be at least 1 and finite, got {bound}")
    if not 1 <= k <= size:
        raise ValueError(f"k must be between 1 and {size}, got {k}")
    return min(size, math.ceil(bound * k - 1e-9))


def typical_rank(
    ranks: Tensor, k: int, size: int, *, power: float = 1.0, bound: float = 2.0
) -> float:
    """The `typical` with which the budgets of images with these ranks (n,) average to k.

    As near as whole tokens allow.

    >>> import torch
    >>> ranks = torch.tensor([2.0, 4.0, 9.0])
    >>> rank_budgets(ranks, 8, typical_rank(ranks, 8, 64), 64).double().mean().item()
    8.0
    """
    low, high = float(ranks.min()) * 1e-3, float(ranks.max()) * 1e3
    for _ in range(60):  # budgets fall as it grows
        middle = math.sqrt(low * high)
        mean = rank_budgets(ranks, k, middle, size, power=power, bound=bound).double().mean()
        low, high = (middle, high) if mean > k else (low, middle)
    return high
