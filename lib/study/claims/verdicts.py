"""A claim of the paper, and the verdict on it with what it rests on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from .evidence import Evidence

__all__ = ["NOT_SUPPORTED", "NOT_TESTABLE", "SUPPORTED", "Claim", "Verdict", "decide", "untestable"]

SUPPORTED, NOT_SUPPORTED, NOT_TESTABLE = "supported", "not supported", "not testable here"


class Verdict(NamedTuple):
    """verdict: one of the three. evidence: the numbers, in a sentence. record: where they are."""

    verdict: str
    evidence: str
    record: str


@dataclass(frozen=True)
class Claim:
    """What the paper says, where, and how it is judged.

    rule: when the verdict is "supported", in words. judge: the verdict that a profile's stored
    numbers give.
    """

    name: str
    where: str
    rule: str
    judge: Callable[[Evidence], Verdict]


def decide(holds: bool, evidence: str, record: str) -> Verdict:
    """The verdict where there are numbers."""
    return Verdict(SUPPORTED if holds else NOT_SUPPORTED, evidence, record)


def untestable(why: str, record: str = "") -> Verdict:
    """The verdict where there are none."""
    return Verdict(NOT_TESTABLE, why, record)
