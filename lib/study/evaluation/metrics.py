"""Records to BLEU, METEOR, ROUGE-L, CIDEr and SPICE, with bootstrap intervals.

The scores are pycocoevalcap's own (`lib.study.evaluation.java` runs its Java parts). Every image
keeps its
scores, and BLEU and METEOR also keep sufficient statistics: these two are no means over images, so
each bootstrap sample adds up the statistics of its images and scores the sum, as the corpus score
does. CIDEr's document frequencies come from the references of the evaluated images, as in COCO's
evaluation; they stay fixed within the bootstrap. CIDEr therefore depends on which images are
evaluated, and of a single image it is 0.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from ..records import write_atomically
from .java import Meteor, meteor_score, spice, spice_missing, tokenize

__all__ = [
    "METRICS",
    "Difference",
    "Scores",
    "compare",
    "format_table",
    "score",
    "score_many",
]

BLEUS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")
METRICS = (*BLEUS, "METEOR", "ROUGE-L", "CIDEr", "SPICE")
DASH = "–"
#: bootstrap weights computed at a time: bounds memory at about 80 MB for 5,000 images
CHUNK = 10_000_000


@dataclass(frozen=True)
class Scores:
    """The scores of one method.

    image_ids: the n images, sorted.
    per_image: `{metric: (n,)}`; BLEU and METEOR of an image are its sentence-level scores.
    statistics: `{"BLEU": (n, 6), "METEOR": (n, 6)}`, what the corpus scores are made of. BLEU: the
        matched 1- to 4-grams, the caption's length, the closest reference's length.
    values: `{metric: corpus score}`, as fractions (CIDEr: about 1); None where unavailable.
    intervals: `{metric: (low, high)}`, 95 % percentile bootstrap over images; None likewise.
    reasons: why a metric is unavailable, with the remedy.
    """

    image_ids: np.ndarray
    per_image: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]
    values: dict[str, float | None]
    intervals: dict[str, tuple[float, float] | None]
    reasons: dict[str, str] = field(default_factory=dict)
    n_bootstrap: int = 1000
    random_state: int = 0

    @property
    def metrics(self) -> list[str]:
        """The metrics that have a value."""
        return [name for name, value in self.values.items() if value is not None]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, without loss: `Scores.from_dict` gives the same scores back."""
        return {
            "image_ids": self.image_ids.tolist(),
            "per_image": {name: x.tolist() for name, x in self.per_image.items()},
            "statistics": {name: x.tolist() for name, x in self.statistics.items()},
            "values": dict(self.values),
            "intervals": {n: None if i is None else list(i) for n, i in self.intervals.items()},
            "reasons": dict(self.reasons),
            "n_bootstrap": self.n_bootstrap,
            "random_state": self.random_state,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Scores:
        """The inverse of `to_dict`. Raises ValueError for anything else."""
        try:
            return cls(
                image_ids=np.asarray(document["image_ids"]),
                per_image={n: np.asarray(x, float) for n, x in document["per_image"].items()},
                statistics={n: np.asarray(x, float) for n, x in document["statistics"].items()},
                values=dict(document["values"]),
                intervals={
                    n: None if i is None else (i[0], i[1]) for n, i in document["intervals"].items()
                },
                reasons=dict(document["reasons"]),
                n_bootstrap=document["n_bootstrap"],
                random_state=document["random_state"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a document of Scores.to_dict: {error!r}") from error

    def save(self, path: str | Path) -> None:
        """Write as JSON, atomically."""
        write_atomically(path, json.dumps(self.to_dict(), separators=(",", ":")) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Scores:
        """Read what `save` wrote."""
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))


# ---------------------------------------------------------------------------- scoring


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
    lib.study.evaluation.java.JavaError : a Java part of the evaluation failed.
    """
    scored = score_many(
        {"": records}, references, metrics=metrics, n_bootstrap=n_bootstrap,
        random_state=random_state, meteor=meteor,
    )  # fmt: skip
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
    given = _checked_references(references)
    captions = {method: _checked(method, rows, given) for method, rows in records.items()}
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
        truth = [tokens["reference", i] for i in order]
        return {
            method: _score(
                [tokens[1, method, i][0] for i in order],
                truth, order, metrics, reasons, meteor, n_bootstrap, random_state,
            )
            for method in captions
        }  # fmt: skip


def _score(said, truth, order, metrics, reasons, meteor, n_bootstrap, random_state) -> Scores:
    per_image: dict[str, np.ndarray] = {}
    statistics: dict[str, np.ndarray] = {}
    values: dict[str, float | None] = {}
    if set(metrics) & set(BLEUS):
        statistics["BLEU"], sentences, corpus = _bleu(said, truth)
        per_image |= zip(BLEUS, sentences)
        values |= zip(BLEUS, corpus)
    if "METEOR" in metrics:
        statistics["METEOR"], per_image["METEOR"], values["METEOR"] = meteor.score(said, truth)
    if "ROUGE-L" in metrics:
        rouge = Rouge()
        per_image["ROUGE-L"] = np.array([rouge.calc_score([h], r) for h, r in zip(said, truth)])
    if "CIDEr" in metrics:
        gts, res = dict(enumerate(truth)), {index: [text] for index, text in enumerate(said)}
        per_image["CIDEr"] = np.asarray(Cider().compute_score(gts, res)[1], dtype=float)
    if "SPICE" in metrics:
        if reasons.get("SPICE"):
            values["SPICE"] = None
        else:
            per_image["SPICE"] = spice(said, truth)
    for name in metrics:
        if name in per_image and name not in values:
            values[name] = float(per_image[name].mean())
    scores = Scores(
        image_ids=np.array(order),
        per_image={name: per_image[name] for name in metrics if name in per_image},
        statistics=statistics,
        values={name: None if values[name] is None else float(values[name]) for name in metrics},
        intervals={},
        reasons={name: reasons[name] for name in metrics if name in reasons},
        n_bootstrap=n_bootstrap,
        random_state=random_state,
    )
    samples = _bootstrap([scores], n_bootstrap, random_state)[0] if n_bootstrap else {}
    scores.intervals.update(
        {name: _interval(samples[name]) if name in samples else None for name in metrics}
    )
    return scores


def _bleu(said: Sequence[str], truth: Sequence[Sequence[str]]):
    """Statistics `(n, 6)`, sentence scores (4 of `(n,)`) and corpus scores (4)."""
    scorer = BleuScorer(n=4)
    for hypothesis, texts in zip(said, truth):
        scorer += (hypothesis, texts)
    corpus, sentences = scorer.compute_score(option="closest", verbose=0)
    statistics = [
        [
            *cooked["correct"],
            cooked["testlen"],
            scorer._single_reflen(cooked["reflen"], "closest", cooked["testlen"]),
        ]
        for cooked in scorer.ctest
    ]
    return np.array(statistics, dtype=float), [np.array(s) for s in sentences], corpus


def _bleu_of(sums: np.ndarray, guesses: np.ndarray) -> np.ndarray:
    """BLEU-1..4 `(..., 4)` of summed statistics `(..., 6)` and n-gram counts `(..., 4)`.

    With the same guards against empty counts as pycocoevalcap.
    """
    correct, length, reference = sums[..., :4], sums[..., 4], sums[..., 5]
    precision = np.cumprod((correct + 1e-15) / (guesses + 1e-9), axis=-1)
    ratio = (length + 1e-15) / (reference + 1e-9)
    brevity = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
    return precision ** (1 / np.arange(1, 5)) * brevity[..., None]


# ---------------------------------------------------------------------------- bootstrap


def _resamples(n: int, n_bootstrap: int, random_state: int) -> Iterator[np.ndarray]:
    """How often each of n images is drawn, `(samples, n)` at a time."""
    generator = np.random.default_rng(random_state)
    chunk = max(1, min(n_bootstrap, CHUNK // n))
    for start in range(0, n_bootstrap, chunk):
        size = min(chunk, n_bootstrap - start)
        drawn = generator.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(float)


def _bootstrap(
    scores: Sequence[Scores], n_bootstrap: int, random_state: int
) -> list[dict[str, np.ndarray]]:
    """`{metric: (n_bootstrap,)}` for each method, all on the same resampled images."""
    parts: list[dict[str, list[np.ndarray]]] = [{} for _ in scores]
    for weights in _resamples(len(scores[0].image_ids), n_bootstrap, random_state):
        for part, one in zip(parts, scores):
            for name, values in _weighted(one, weights).items():
                part.setdefault(name, []).append(values)
    return [{name: np.concatenate(chunks) for name, chunks in part.items()} for part in parts]


def _weighted(scores: Scores, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Corpus scores when image j counts `weights[b, j]` times: `{metric: (b,)}`."""
    result = {}
    if "BLEU" in scores.statistics:
        statistics = scores.statistics["BLEU"]
        guesses = np.maximum(0, statistics[:, 4:5] - np.arange(4))
        bleu = _bleu_of(weights @ statistics, weights @ guesses)
        result |= {name: bleu[:, k] for k, name in enumerate(BLEUS) if name in scores.per_image}
    if "METEOR" in scores.statistics:
        result["METEOR"] = meteor_score(weights @ scores.statistics["METEOR"])
    total = weights.sum(1)
    for name, values in scores.per_image.items():
        if name not in result:
            result[name] = weights @ values / total
    return result


def _interval(samples: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)


class Difference(NamedTuple):
    """`value` = a - b with its 95 % interval `(low, high)` and two-sided `p_value`."""

    value: float
    low: float
    high: float
    p_value: float


def compare(
    a: Scores, b: Scores, *, n_bootstrap: int = 10_000, random_state: int = 0
) -> dict[str, Difference]:
    """Paired bootstrap over images: how much method a differs from method b, for each metric.

    Each sample draws images with replacement and scores both methods on them, so what makes an
    image hard for both cancels. The interval holds the middle 95 % of the differences. The p-value
    is twice the smaller share of samples on either side of zero (ties count for both sides), with
    one added to counts and samples, hence never below 2 / (n_bootstrap + 1), and at most 1.

    Parameters
    ----------
    a, b : scores of the same images. Metrics that one of them lacks are left out.
    n_bootstrap, random_state : samples and seed.

    Raises ValueError if the images differ (ids are named) or `n_bootstrap` is not positive.
    """
    if n_bootstrap < 1:
        raise ValueError(f"n_bootstrap must be at least 1, got {n_bootstrap}")
    if lonely := set(a.image_ids.tolist()) ^ set(b.image_ids.tolist()):
        raise ValueError(f"the methods were scored on different images: {_some(lonely)}")
    first, second = _bootstrap([a, b], n_bootstrap, random_state)
    result = {}
    for name in [m for m in a.metrics if m in b.metrics]:
        gaps = first[name] - second[name]
        gaps[np.abs(gaps) < 1e-12] = 0  # equal captions differ by rounding at most
        tail = min(np.sum(gaps <= 0), np.sum(gaps >= 0))
        p_value = min(1.0, 2 * (tail + 1) / (n_bootstrap + 1))
        gap = a.values[name] - b.values[name]
        result[name] = Difference(gap, *_interval(gaps), float(p_value))
    return result


# ---------------------------------------------------------------------------- tables


def format_table(
    scores: Mapping[str, Scores],
    *,
    metrics: Sequence[str] | None = None,
    scale: float = 100,
    digits: int = 1,
    markdown: bool = False,
) -> pd.DataFrame | str:
    """One row a method, one column a metric: "37.5 [36.9, 38.1]", a dash where there is no value.

    Parameters
    ----------
    metrics : columns; by default all that were asked for when scoring.
    scale : 100 as in papers, 1 for fractions.
    digits : decimals.
    markdown : return a Markdown table, followed by the reasons of the dashes.

    The DataFrame carries the reasons in `attrs["notes"]`.
    """
    if metrics is None:
        metrics = list(dict.fromkeys(name for one in scores.values() for name in one.values))
    rows = {
        method: [_cell(one, name, scale, digits) for name in metrics]
        for method, one in scores.items()
    }
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=list(metrics))
    frame.index.name = "Method"
    reasons = {name: text for one in scores.values() for name, text in one.reasons.items()}
    frame.attrs["notes"] = {name: text for name, text in reasons.items() if name in metrics}
    if not markdown:
        return frame
    lines = ["| Method | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    lines += [f"| {method} | " + " | ".join(cells) + " |" for method, cells in rows.items()]
    lines += [f"\n{DASH} {name}: {text}" for name, text in frame.attrs["notes"].items()]
    return "\n".join(lines) + "\n"


def _cell(scores: Scores, name: str, scale: float, digits: int) -> str:
    value, interval = scores.values.get(name), scores.intervals.get(name)
    if value is None:
        return DASH
    shown = f"{value * scale:.{digits}f}"
    if interval is None:
        return shown
    return f"{shown} [{interval[0] * scale:.{digits}f}, {interval[1] * scale:.{digits}f}]"


# ---------------------------------------------------------------------------- checks


def _some(ids: Iterable[Any]) -> str:
    listed = sorted(ids, key=lambda i: (str(type(i)), i))
    more = f" and {len(listed) - 10} more" if len(listed) > 10 else ""
    return f"image_id {', '.join(map(str, listed[:10]))}{more}"


def _checked_references(references) -> dict[int, list[str]]:
    if not isinstance(references, Mapping):
        pairs = [(example.image_id, example.references) for example in references]
        if twice := [i for i, count in Counter(i for i, _ in pairs).items() if count > 1]:
            raise ValueError(f"references occur twice: {_some(twice)}")
        references = dict(pairs)
    if not references:
        raise ValueError("references are empty: there is nothing to score against")
    for name, texts in references.items():
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"references must be lists of captions: {_some([name])}: {texts!r}")
    blank = [i for i, texts in references.items() if not texts or not all(map(str.strip, texts))]
    if blank:
        raise ValueError(f"images without references, or with an empty one: {_some(blank)}")
    return {name: list(texts) for name, texts in references.items()}


def _checked(method, records, references) -> dict[int, str]:
    """`{image_id: caption}` of one method, complete."""
    label = f"{method}: " if method else ""
    captions: dict[int, str] = {}
    twice = []
    for record in records:
        try:
            name, text = record["image_id"], record["caption"]
        except (KeyError, TypeError):
            raise ValueError(
                f"{label}a record needs image_id and caption, got {record!r}"
            ) from None
        if not isinstance(text, str):
            raise ValueError(f"{label}the caption of {_some([name])} is no text: {text!r}")
        if name in captions:
            twice.append(name)
        captions[name] = text
    if twice:
        raise ValueError(f"{label}recorded twice: {_some(set(twice))}")
    if unknown := captions.keys() - references.keys():
        raise ValueError(f"{label}recorded images have no references: {_some(unknown)}")
    if missing := references.keys() - captions.keys():
        raise ValueError(
            f"{label}images without a record: {_some(missing)}. Caption them, or pass the "
            "references of the recorded images only."
        )
    return captions
