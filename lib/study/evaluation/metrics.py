"""Records to BLEU, METEOR, ROUGE-L, CIDEr and SPICE, with bootstrap intervals.

The scores are pycocoevalcap's own (`lib.study.evaluation.java` runs its Java parts). Every image
keeps its scores, and BLEU and METEOR also keep sufficient statistics, of which the bootstrap makes
corpus scores. CIDEr's document frequencies come from the references of the evaluated images, as in
COCO's evaluation. CIDEr therefore depends on which images are evaluated, and of a single image it
is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from .bleu import bleu
from .bootstrap import Difference, compare, interval, resampled
from .checks import complete_captions, complete_references
from .meteor import Meteor
from .scores import BLEUS, METRICS, Scores
from .spice import spice, spice_missing
from .tables import format_table
from .tokens import tokenize

__all__ = [
    "METRICS",
    "Difference",
    "Scores",
    "compare",
    "format_table",
    "score",
    "score_many",
]


def score(
    records: Iterable[Mapping[str, Any]],
    references: Mapping[int, Sequence[str]] | Iterable[Any],
    *,
    metrics: Sequence[str] = METRICS,
    n_bootstrap: int = 1000,
    random_state: int = 0,
    meteor: Meteor | None = None,
) -> Scores:
    """Score the captions of one method; see `score_many` for several, which is faster.

    Parameters
    ----------
    records : one mapping an image, with `image_id` and `caption`.
    references : `{image_id: captions}`, or examples with `image_id` and `references`.
    metrics : which to compute, in the order wanted.
    n_bootstrap : bootstrap samples of the intervals; 0 for none.
    random_state : seed of the bootstrap. The same seed resamples the same images for each method.
    meteor : a running METEOR process to use; without one it is started and ended here.

    Raises
    ------
    ValueError : an image recorded twice, without a record or without references (ids are named),
        or an unknown metric.
    JavaError : a Java part of the evaluation failed.
    """
    scored = score_many(
        {"": records},
        references,
        metrics=metrics,
        n_bootstrap=n_bootstrap,
        random_state=random_state,
        meteor=meteor,
    )
    return scored[""]


def score_many(
    records: Mapping[str, Iterable[Mapping[str, Any]]],
    references: Mapping[int, Sequence[str]] | Iterable[Any],
    *,
    metrics: Sequence[str] = METRICS,
    n_bootstrap: int = 1000,
    random_state: int = 0,
    meteor: Meteor | None = None,
) -> dict[str, Scores]:
    """Score several methods on the same images: one tokenizer run and one METEOR process for all.

    Parameters
    ----------
    records : `{method: records}`.

    All other parameters, and what is raised: see `score`.
    """
    if unknown := [name for name in metrics if name not in METRICS]:
        raise ValueError(f"unknown metric {unknown[0]!r}: choose from {', '.join(METRICS)}")
    if n_bootstrap < 0:
        raise ValueError(f"n_bootstrap must be at least 0, got {n_bootstrap}")
    given = complete_references(references)
    captions = {method: complete_captions(method, rows, given) for method, rows in records.items()}
    order = sorted(given)
    reasons: dict[str, str] = {}
    if "SPICE" in metrics and (reason := spice_missing()):
        reasons["SPICE"] = reason
    with ExitStack() as stack:
        if "METEOR" in metrics and meteor is None and captions:
            meteor = stack.enter_context(Meteor())  # loads its tables while we tokenise
        tokens = tokenize(
            {("reference", i): given[i] for i in order}
            | {(1, method, i): [caption[i]] for method, caption in captions.items() for i in order}
        )
        truth, scored = [tokens["reference", i] for i in order], {}
        for method in captions:
            said = [tokens[1, method, i][0] for i in order]
            scores = _scores(_measured(said, truth, metrics, reasons, meteor), order, metrics)
            scored[method] = replace(
                scores,
                reasons={name: reasons[name] for name in metrics if name in reasons},
                intervals=_intervals(scores, metrics, n_bootstrap, random_state),
                n_bootstrap=n_bootstrap,
                random_state=random_state,
            )
    return scored


class _Measured(NamedTuple):
    """What the scorers say of one method's captions: see `Scores`."""

    per_image: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]
    values: dict[str, float | None]


def _measured(
    said: Sequence[str],
    truth: Sequence[Sequence[str]],
    metrics: Sequence[str],
    reasons: Mapping[str, str],
    meteor: Meteor | None,
) -> _Measured:
    found = _Measured({}, {}, {})
    if set(metrics) & set(BLEUS):
        found.statistics["BLEU"], sentences, corpus = bleu(said, truth)
        found.per_image.update(zip(BLEUS, sentences))
        found.values.update(zip(BLEUS, corpus))
    if "METEOR" in metrics and meteor is not None:
        statistics, each, corpus = meteor.score(said, truth)
        found.statistics["METEOR"], found.per_image["METEOR"] = statistics, each
        found.values["METEOR"] = corpus
    if "ROUGE-L" in metrics:
        rouge = Rouge()
        found.per_image["ROUGE-L"] = np.array(
            [rouge.calc_score([text], texts) for text, texts in zip(said, truth)]
        )
    if "CIDEr" in metrics:
        gts, res = dict(enumerate(truth)), {index: [text] for index, text in enumerate(said)}
        found.per_image["CIDEr"] = np.asarray(Cider().compute_score(gts, res)[1], dtype=float)
    if "SPICE" in metrics:
        if "SPICE" in reasons:
            found.values["SPICE"] = None
        else:
            found.per_image["SPICE"] = spice(said, truth)
    for name, each in found.per_image.items():
        found.values.setdefault(name, float(each.mean()))
    return found


def _scores(found: _Measured, order: Sequence[int], metrics: Sequence[str]) -> Scores:
    """The scores asked for, in the order asked for, without intervals."""
    values = {name: found.values[name] for name in metrics}
    return Scores(
        image_ids=np.array(order),
        per_image={name: found.per_image[name] for name in metrics if name in found.per_image},
        statistics=found.statistics,
        values={name: None if value is None else float(value) for name, value in values.items()},
        intervals={},
    )


def _intervals(
    scores: Scores, metrics: Sequence[str], n_bootstrap: int, random_state: int
) -> dict[str, tuple[float, float] | None]:
    samples = resampled([scores], n_bootstrap, random_state)[0] if n_bootstrap else {}
    return {name: interval(samples[name]) if name in samples else None for name in metrics}
