"""Scores of captions, and what may be concluded from them.

java -> tokens, meteor, spice      pycocoevalcap's Java parts; corenlp installs what SPICE needs
bleu, meteor, spice -> metrics     records to `Scores`
bootstrap -> statistics            intervals, paired differences, families of comparisons
tables                             scores as a table
"""

from .bootstrap import Difference, compare, mean_interval
from .java import JavaError
from .metrics import score, score_many
from .scores import METRICS, Scores
from .spice import spice_missing
from .statistics import (
    Comparison,
    Equivalence,
    Family,
    compare_families,
    equivalence,
    holm,
    sign_flip,
)
from .tables import format_table

__all__ = [
    "METRICS",
    "Comparison",
    "Difference",
    "Equivalence",
    "Family",
    "JavaError",
    "Scores",
    "compare",
    "compare_families",
    "equivalence",
    "format_table",
    "holm",
    "mean_interval",
    "score",
    "score_many",
    "sign_flip",
    "spice_missing",
]
