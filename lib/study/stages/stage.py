"""What a study consists of, and how one part may go on beside another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .study import Study, threads

__all__ = ["Stage"]


@dataclass(frozen=True)
class Stage:
    """A part of a study.

    make: compute what is missing of it; False: nothing was. share: compute the share of one of
    several launched processes, where there is something to share. model: whether it needs the
    model. one_core: whether it keeps one core busy and times nothing, so that what needs no model
    may go on beside it.
    """

    make: Callable[[Study], bool]
    share: Callable[[Study], None] | None = None
    model: bool = True
    one_core: bool = False

    def run(self, study: Study) -> bool:
        """`make`, with one thread if it is to leave the other cores alone."""
        if not self.one_core:
            return self.make(study)
        with threads(study.loaded.model.device, 1):
            return self.make(study)

    def beside(self, other: Stage | None) -> bool:
        """Whether another process may do it while this one does the other stage."""
        return other is not None and other.one_core and not self.model
