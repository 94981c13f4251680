"""Visual tokens by layer, and averages over the layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def check_average(average: Any) -> None:
    """Refuse what is no average to ask for.

    Raises `ValueError`.

    >>> check_average(1.5)
    Traceback (most recent call last):
    ValueError: average must be a whole number of tokens, or a share of them in (0, 1] as a float; \
got 1.5
    """
    if average is None:
        return
    number = isinstance(average, int | float) and not isinstance(average, bool)
    if not number or (isinstance(average, float) and not 0 < average <= 1) or average <= 0:
        raise ValueError(
            "average must be a whole number of tokens, or a share of them in (0, 1] as a float; "
            f"got {average!r}"
        )


def by_layer(tokens: int, left: Iterable[tuple[int, int]], depth: int) -> list[int]:
    """Tokens in each of `depth` layers, given what stages leave: pairs of layer and count.

    >>> by_layer(9, [(1, 5), (3, 2)], 4)
    [9, 5, 5, 2]
    """
    counts = [tokens] * depth
    for layer, count in left:
        counts[layer:] = [count] * (depth - layer)
    return counts
