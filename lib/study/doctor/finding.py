"""What the doctor says of one thing it looked at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        item: what was looked at.
        good: whether it is there and usable.
        detail: what was found.
        remedy: the command that gets it, where it is not.
        download: bytes that command downloads; unpacked: those it leaves beside them.
        needed: False where the profile runs without it.
    """

    item: str
    good: bool
    detail: str
    remedy: str = ""
    download: int = 0
    unpacked: int = 0
    needed: bool = True

    @property
    def mark(self) -> str:
        return "ok" if self.good else "MISSING" if self.needed else "optional"
