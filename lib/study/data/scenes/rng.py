"""Random choices that are the same on every machine and in every Python."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence


class Rng:
    """Integer draws from a Mersenne Twister, whose ``getrandbits`` never changed between Pythons.

    Examples
    --------
    >>> rng = Rng(3)
    >>> [rng.below(10) for _ in range(5)]
    [2, 5, 5, 1, 3]
    """

    def __init__(self, seed: int) -> None:
        self._bits = random.Random(seed).getrandbits

    def below(self, n: int) -> int:
        """An integer in [0, n)."""
        return (self._bits(32) * n) >> 32

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high], both ends included."""
        return low + self.below(high - low + 1)

    def chance(self, percent: int) -> bool:
        """True in ``percent`` of 100 draws."""
        return self.below(100) < percent

    def pick(self, items: Sequence):
        """One of ``items``."""
        return items[self.below(len(items))]

    def weighted(self, weights: Sequence[int]) -> int:
        """An index, with probability in proportion to integer ``weights``."""
        if min(weights) < 0 or sum(weights) == 0:
            raise ValueError(f"weights must be positive integers or 0, got {weights!r}")
        mark, index = self.below(sum(weights)), 0
        while mark >= weights[index]:
            mark -= weights[index]
            index += 1
        return index

    def shuffled(self, items: Iterable) -> list:
        """A new list in random order."""
        items = list(items)
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]
        return items
