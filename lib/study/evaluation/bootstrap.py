"""The one bootstrap of the study: over images, the same ones for every method.

BLEU and METEOR are no means over images, so each sample adds up the statistics of its images and
scores the sum, as the corpus score does. CIDEr's document frequencies stay fixed within it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .bleu import bleu_score
from .checks import some
from .meteor import meteor_score
from .scores import BLEUS, Scores

__all__ = [
    "ROUNDING",
    "Difference",
    "check_paired",
    "compare",
    "difference",
    "interval",
    "mean_interval",
    "resampled",
    "weighted",
]

#: bootstrap weights computed at a time: bounds memory at about 80 MB for 5,000 images
CHUNK = 10_000_000
#: differences below this are rounding: equal captions have none
ROUNDING = 1e-12


def _resamples(n: int, n_bootstrap: int, random_state: int) -> Iterator[np.ndarray]:
    """How often each of n images is drawn, `(samples, n)` at a time."""
    generator = np.random.default_rng(random_state)
    chunk = max(1, min(n_bootstrap, CHUNK // n))
    for start in range(0, n_bootstrap, chunk):
        size = min(chunk, n_bootstrap - start)
        drawn = generator.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(float)


def resampled(
    scores: Sequence[Scores], n_bootstrap: int, random_state: int
) -> list[dict[str, np.ndarray]]:
    """`{metric: (n_bootstrap,)}` for each method, all on the same resampled images."""
    parts: list[dict[str, list[np.ndarray]]] = [{} for _ in scores]
    for weights in _resamples(len(scores[0].image_ids), n_bootstrap, random_state):
        for part, one in zip(parts, scores):
            for name, values in weighted(one, weights).items():
                part.setdefault(name, []).append(values)
    return [{name: np.concatenate(chunks) for name, chunks in part.items()} for part in parts]


def weighted(scores: Scores, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Corpus scores when image j counts `weights[b, j]` times: `{metric: (b,)}`."""
    result = {}
    if "BLEU" in scores.statistics:
        statistics = scores.statistics["BLEU"]
        guesses = np.maximum(0, statistics[:, 4:5] - np.arange(4))
        bleu = bleu_score(weights @ statistics, weights @ guesses)
        result |= {name: bleu[:, k] for k, name in enumerate(BLEUS) if name in scores.per_image}
    if "METEOR" in scores.statistics:
        result["METEOR"] = meteor_score(weights @ scores.statistics["METEOR"])
    total = weights.sum(1)
    for name, values in scores.per_image.items():
        if name not in result:
            result[name] = weights @ values / total
    return result


def interval(samples: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of bootstrap samples."""
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)


def mean_interval(
    values: Sequence[float] | np.ndarray, *, n_bootstrap: int = 1000, random_state: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of a mean over images, by the same resamples as every score's.

    >>> mean_interval([1.0, 1.0, 1.0])
    (1.0, 1.0)

    Raises ValueError if there are no values or no samples.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"values must be one a image, (n,), got shape {values.shape}")
    if n_bootstrap < 1:
        raise ValueError(f"n_bootstrap must be at least 1, got {n_bootstrap}")
    weights = _resamples(len(values), n_bootstrap, random_state)
    return interval(np.concatenate([w @ values for w in weights]) / len(values))


class Difference(NamedTuple):
    """`value` = a - b with its 95 % interval `(low, high)` and two-sided `p_value`."""

    value: float
    low: float
    high: float
    p_value: float


def check_paired(scores: Sequence[Scores]) -> None:
    """Raises ValueError unless all were scored on the same images; the others are named."""
    for other in scores[1:]:
        if lonely := set(scores[0].image_ids.tolist()) ^ set(other.image_ids.tolist()):
            raise ValueError(f"the methods were scored on different images: {some(lonely)}")
        if not np.array_equal(scores[0].image_ids, other.image_ids):
            raise ValueError("the methods were scored on the same images in another order")


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
    check_paired([a, b])
    first, second = resampled([a, b], n_bootstrap, random_state)
    return {
        name: difference(a.values[name] - b.values[name], first[name] - second[name])
        for name in a.metrics
        if name in b.metrics
    }


def difference(value: float, gaps: np.ndarray) -> Difference:
    """A difference with what its bootstrap samples say about it: see `compare`."""
    gaps = np.where(np.abs(gaps) < ROUNDING, 0, gaps)
    tail = min(np.sum(gaps <= 0), np.sum(gaps >= 0))
    p_value = min(1.0, 2 * (tail + 1) / (len(gaps) + 1))
    return Difference(value, *interval(gaps), float(p_value))
