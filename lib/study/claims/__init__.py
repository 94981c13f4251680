"""The paper's claims, each judged by what a profile has stored.

evidence -> verdicts          what is stored of a profile; a verdict with the comparison behind it
attention, quality, tokens, cost      the claims, and how each is judged
judging                       all claims by all profiles, as a table

Nothing is decided here by hand: a verdict follows from stored numbers and a rule that stands beside
the claim, and a profile that lacks the numbers says so.
"""

from .evidence import Evidence
from .judging import CLAIMS, judged, profiles, summary, table
from .verdicts import NOT_SUPPORTED, NOT_TESTABLE, SUPPORTED, Claim, Verdict

__all__ = [
    "CLAIMS",
    "NOT_SUPPORTED",
    "NOT_TESTABLE",
    "SUPPORTED",
    "Claim",
    "Evidence",
    "Verdict",
    "judged",
    "profiles",
    "summary",
    "table",
]
