"""What may be concluded from paired scores: families of comparisons, and equivalence.

- A *family* is declared before it is looked at: which methods are compared, by which metrics. Its
  p-values are corrected together (S. Holm, "A simple sequentially rejective multiple test
  procedure", Scandinavian Journal of Statistics 6, 1979), and the plain ones stand beside them.
- Each difference is tested twice: by the paired bootstrap (`compare`), and by exchanging the two
  methods on every image at random, which for means is the sign-flip test (E. W. Noreen,
  "Computer-intensive methods for testing hypotheses", 1989, approximate randomisation).
- "No difference was found" is not "equal": that needs a margin stated beforehand and two one-sided
  tests (D. J. Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15, 1987).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .bootstrap import CHUNK, ROUNDING, check_paired, difference, resampled, weighted
from .scores import Scores

__all__ = [
    "Comparison",
    "Equivalence",
    "Family",
    "compare_families",
    "equivalence",
    "holm",
    "sign_flip",
]


@dataclass(frozen=True)
class Family:
    """Comparisons that are corrected together.

    name: what the family asks. pairs: methods `(a, b)`. metrics: each pair is compared by each.
    """

    name: str
    pairs: tuple[tuple[str, str], ...]
    metrics: tuple[str, ...]


class Comparison(NamedTuple):
    """`value` = a - b by one metric, its 95 % interval, and what is to be believed of it.

    images: how many it rests on. p_value, flip_p: of the paired bootstrap and of the sign flips,
    two-sided. p_holm, flip_holm: the same, corrected for the `tests` of the family.
    """

    family: str
    a: str
    b: str
    metric: str
    images: int
    tests: int
    value: float
    low: float
    high: float
    p_value: float
    p_holm: float
    flip_p: float
    flip_holm: float


class Equivalence(NamedTuple):
    """Whether a and b differ by less than `margin`: `value` = a - b with its 90 % interval.

    p_value: the larger one of two one-sided tests, against -margin and against margin; the
    interval lies within the margin where it is below .05.
    """

    metric: str
    images: int
    margin: float
    value: float
    low: float
    high: float
    p_value: float
    equivalent: bool


def compare_families(
    scores: Mapping[str, Scores],
    families: Sequence[Family],
    *,
    n_samples: int = 10_000,
    random_state: int = 0,
) -> dict[str, list[Comparison]]:
    """Every comparison of every family, corrected within it: `{family: comparisons}`.

    A metric that one of a pair lacks (SPICE without CoreNLP) is left out and not counted.

    Parameters
    ----------
    scores : of all methods that the families name, on the same images.
    n_samples, random_state : bootstrap samples and sign flips, and the seed of both.

    Raises
    ------
    ValueError : a method without scores, two families of one name, a family that tests nothing, or
        methods scored on different images (ids are named).
    """
    families = list(families)
    names = [family.name for family in families]
    if len(set(names)) < len(names):
        raise ValueError(f"each family needs a name of its own, got {names}")
    wanted = list(dict.fromkeys(m for f in families for pair in f.pairs for m in pair))
    if unknown := [name for name in wanted if name not in scores]:
        raise ValueError(f"no scores of {unknown[0]!r}; there are {', '.join(scores)}")
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, got {n_samples}")
    chosen = [scores[name] for name in wanted]
    check_paired(chosen)
    samples = dict(zip(wanted, resampled(chosen, n_samples, random_state))) if chosen else {}
    return {
        family.name: _compare(family, scores, samples, n_samples, random_state)
        for family in families
    }


def _compare(
    family: Family,
    scores: Mapping[str, Scores],
    samples: Mapping[str, Mapping[str, np.ndarray]],
    n_samples: int,
    random_state: int,
) -> list[Comparison]:
    made = []
    for a, b in family.pairs:
        one, other = scores[a], scores[b]
        shared = [m for m in family.metrics if m in one.metrics and m in other.metrics]
        flips = sign_flip(one, other, n_samples=n_samples, random_state=random_state)
        for metric in shared:
            gap = difference(
                one.values[metric] - other.values[metric], samples[a][metric] - samples[b][metric]
            )
            made.append((a, b, metric, len(one.image_ids), gap, flips[metric]))
    if not made:
        raise ValueError(f"family {family.name!r} compares nothing: no pair shares a metric")
    p_holm = holm([gap.p_value for *_, gap, _ in made])
    flip_holm = holm([flip for *_, flip in made])
    return [
        Comparison(
            *(family.name, a, b, metric, images, len(made)),
            *(*gap, float(p_holm[i])),
            *(flip, float(flip_holm[i])),
        )
        for i, (a, b, metric, images, gap, flip) in enumerate(made)
    ]


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's correction: the family's error rate at which each hypothesis would be rejected.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]

    Raises ValueError unless all lie in [0, 1].
    """
    p = np.asarray(p_values, dtype=float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values must lie in [0, 1], got {p_values}")
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(steps, 1)
    return corrected


def sign_flip(
    a: Scores, b: Scores, *, n_samples: int = 10_000, random_state: int = 0
) -> dict[str, float]:
    """Two-sided p-values of "which method is which means nothing", for each metric of both.

    On every image the two methods are exchanged or not; the p-value is the share of exchanges that
    make a difference at least as large as the one seen. All 2^n exchanges where there are no more
    than `n_samples`; else so many at random, with the one seen counted in, so that no p-value is 0.

    Raises ValueError if the images differ (ids are named) or `n_samples` is not positive.
    """
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, got {n_samples}")
    check_paired([a, b])
    n, names = len(a.image_ids), [m for m in a.metrics if m in b.metrics]
    exact = n < 60 and 2**n <= n_samples
    both = _together(a, b, names)
    seen = {name: abs(a.values[name] - b.values[name]) - ROUNDING for name in names}
    if exact:  # the values that were rounded by other arithmetic than the samples'
        seen = {name: abs(_gaps(both, np.ones((1, n)))[name][0]) - ROUNDING for name in names}
    larger = dict.fromkeys(names, 0)
    total = 0
    for kept in _exchanges(n, n_samples, random_state, exact):
        total += len(kept)
        for name, gaps in _gaps(both, kept).items():
            larger[name] += int(np.sum(np.abs(gaps) >= seen[name]))
    extra = 0 if exact else 1
    return {name: (count + extra) / (total + extra) for name, count in larger.items()}


def _together(a: Scores, b: Scores, names: Sequence[str]) -> Scores:
    """Both methods' images as one list of 2n."""
    kinds = a.statistics.keys() & b.statistics.keys()
    return Scores(
        image_ids=np.concatenate([a.image_ids, b.image_ids]),
        per_image={m: np.concatenate([a.per_image[m], b.per_image[m]]) for m in names},
        statistics={k: np.concatenate([a.statistics[k], b.statistics[k]]) for k in sorted(kinds)},
        values={},
        intervals={},
    )


def _gaps(both: Scores, kept: np.ndarray) -> dict[str, np.ndarray]:
    """Differences when image j of sample i keeps its methods (1) or exchanges them (0)."""
    first = weighted(both, np.hstack([kept, 1 - kept]))
    second = weighted(both, np.hstack([1 - kept, kept]))
    return {name: first[name] - second[name] for name in both.per_image}


def _exchanges(n: int, n_samples: int, random_state: int, exact: bool) -> Iterator[np.ndarray]:
    """Which images keep their methods, `(samples, n)` of 0 and 1 at a time."""
    if exact:
        yield np.array(list(itertools.product((1.0, 0.0), repeat=n)))
        return
    generator = np.random.default_rng(random_state)
    chunk = max(1, min(n_samples, CHUNK // (4 * n)))  # each is held four times over
    for start in range(0, n_samples, chunk):
        size = (min(chunk, n_samples - start), n)
        yield generator.integers(2, size=size).astype(float)


def equivalence(
    a: Scores,
    b: Scores,
    margins: Mapping[str, float],
    *,
    n_bootstrap: int = 10_000,
    random_state: int = 0,
) -> dict[str, Equivalence]:
    """Two one-sided tests, by the paired bootstrap, that a and b differ by less than a margin.

    Parameters
    ----------
    margins : `{metric: margin}` in the units of the scores (CIDEr .02 is two points), stated
        before the data are looked at. A metric that a or b lacks is left out.

    Raises ValueError if a margin is not positive, if the images differ (ids are named) or if
    `n_bootstrap` is not positive.
    """
    if bad := {name: margin for name, margin in margins.items() if not margin > 0}:
        raise ValueError(f"margins must be positive, got {bad}")
    if n_bootstrap < 1:
        raise ValueError(f"n_bootstrap must be at least 1, got {n_bootstrap}")
    check_paired([a, b])
    first, second = resampled([a, b], n_bootstrap, random_state)
    found = {}
    for metric in [m for m in margins if m in a.metrics and m in b.metrics]:
        gaps, margin = first[metric] - second[metric], margins[metric]
        tail = max(np.sum(gaps <= -margin), np.sum(gaps >= margin))
        p_value = float(tail + 1) / (n_bootstrap + 1)
        low, high = np.quantile(gaps, [0.05, 0.95])
        found[metric] = Equivalence(
            metric=metric,
            images=len(a.image_ids),
            margin=margin,
            value=a.values[metric] - b.values[metric],
            low=float(low),
            high=float(high),
            p_value=p_value,
            equivalent=p_value < 0.05,
        )
    return found
