"""Methods that let an image say how many of its tokens stay."""

from __future__ import annotations


class OwnCount:
    """A base beside `VisualPruner`'s for methods with an option `count`.

    count: "exact" keeps `budget(N)` tokens; "adaptive" as many as an image asks for, at most
        `at_most(N)`.
    """

    count: str
    bounded = True

    @property
    def exact(self) -> bool:
        return self.count == "exact"

    def most(self, tokens: int) -> int:
        return self.budget(tokens) if self.exact else self.at_most(tokens)

    def at_most(self, tokens: int) -> int:
        """The most that can stay of `tokens` where the count is not exact; by default all."""
        return tokens
