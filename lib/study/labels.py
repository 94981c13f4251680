"""Names that tables, figures and the study share; nothing here needs a model."""

from __future__ import annotations

__all__ = [
    "BEFORE",
    "DEEP",
    "DIVERGENCE",
    "LABELS",
    "LOSS",
    "OBJECT_F1",
    "PAPER",
    "RANDOM",
    "SWEPT",
    "TABLE_1",
    "UNSCORED",
    "percent",
]

#: the paper's methods, in its order
TABLE_1 = ("unpruned", "random", "tome", "fastv", "entropy")
LABELS = {
    "random": "RandomPrune",
    "tome": "ToMe",
    "fastv": "FastV",
    "entropy": "Entropy-Prune",
    "selection": "Entropy + coverage (ours)",
    "weighted": "Attention-weighted coverage (ours)",
}
#: methods of the keep-rate sweep
SWEPT = tuple(LABELS)
#: the parts of Table 1
PAPER = "the paper's rows"
BEFORE = "before the language model"
DEEP = "at FastV's layer"
#: the study's own metric: the mean F1 of the objects that a caption names
OBJECT_F1 = "Object F1"
#: teacher-forced divergence from the unpruned model, and the loss of the references beside it
DIVERGENCE = "divergence"
LOSS = "loss of the references"
RANDOM = "random weights"
#: why a profile with random weights has no scores
UNSCORED = "captions of random weights mean nothing, so they are not scored"


def percent(keep: float) -> str:
    """A keep rate as slugs name it.

    >>> percent(0.5), percent(0.125)
    ('50', '12.5')
    """
    return f"{100 * keep:g}"
