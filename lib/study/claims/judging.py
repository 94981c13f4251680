"""All claims, judged by all profiles that have results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from ..profiles import profile_names
from . import attention, cost, quality, tokens
from .evidence import Evidence
from .verdicts import NOT_SUPPORTED, NOT_TESTABLE, SUPPORTED, Claim, Verdict

__all__ = ["CLAIMS", "judged", "leading", "profiles", "summary", "table"]

CLAIMS: tuple[Claim, ...] = (*attention.CLAIMS, *quality.CLAIMS, *tokens.CLAIMS, *cost.CLAIMS)
#: whose evidence weighs more: the paper's model, photographs, drawn scenes, and costs alone
ORDER = ("paper", "photos", "embedded", "shape")
#: scored images below which a profile is a first look, and judges only where it is named
ENOUGH = 100


def profiles(first: str | None = None) -> list[str]:
    """The profiles with stored results, the weightiest first; `first` among them if it has any.

    A profile that is in no order, such as one of one's own, is judged only if it is named. So is
    one of fewer than `ENOUGH` images: what it does not show may be there all the same.
    """
    names = [name for name in ORDER if name in profile_names()]
    if first is not None and first not in names:
        names.insert(0, first)
    found = {name: Evidence.of(name) for name in names}
    return [
        name
        for name, evidence in found.items()
        if evidence.exists
        and (name == first or evidence.random_weights or evidence.images() >= ENOUGH)
    ]


def judged(profile: str) -> list[tuple[Claim, Verdict]]:
    """Every claim with the verdict that a profile's stored results give."""
    evidence = Evidence.of(profile)
    return [(claim, claim.judge(evidence)) for claim in CLAIMS]


def leading(names: Sequence[str]) -> list[tuple[Claim, str, Verdict]]:
    """Every claim with the first of the profiles that can test it, and that one's verdict."""
    verdicts = {name: dict(zip(CLAIMS, (v for _, v in judged(name)))) for name in names}
    found = []
    for claim in CLAIMS:
        testing = [n for n in names if verdicts[n][claim].verdict != NOT_TESTABLE]
        name = testing[0] if testing else (names[0] if names else "")
        verdict = verdicts[name][claim] if name else Verdict(NOT_TESTABLE, "no results", "")
        found.append((claim, name, verdict))
    return found


def table(names: Sequence[str]) -> pd.DataFrame:
    """A row a claim: the verdict, its profile, the numbers behind it and where they are stored."""
    rows = [
        {
            "Claim of the paper": f"{claim.name} ({claim.where})",
            "Verdict": verdict.verdict,
            "Profile": name,
            "Evidence": verdict.evidence,
            "Stored in": verdict.record,
        }
        for claim, name, verdict in leading(names)
    ]
    return pd.DataFrame(rows).set_index("Claim of the paper")


def summary(names: Sequence[str]) -> str:
    """How many claims have which verdict, in one sentence."""
    count = Counter(verdict.verdict for _, _, verdict in leading(names))
    parts = (f"{count[word]} {word}" for word in (SUPPORTED, NOT_SUPPORTED, NOT_TESTABLE))
    return f"Of {len(CLAIMS)} claims: {', '.join(parts)}."
