"""The scores of a study's captions: `scores.json`, and those of every image in `scores/`.

The summary of the divergences, `divergence.json`, is made with them (`readings`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from .. import comparisons
from ..data.scenes import object_f1
from ..dependencies import scores_code
from ..evaluation import equivalence, mean_interval, metrics, spice_missing
from ..examples import examples
from ..files import entry, write_json
from ..labels import OBJECT_F1, UNSCORED, percent
from ..methods import Method, methods, swept
from ..models import read_config
from ..profiles import Profile
from ..records import canonical, digest, read_records
from .readings import budget_of, compared, make_readings
from .study import Study

__all__ = ["make_scores", "score", "with_objects"]

#: bootstrap samples of an ablation's difference from the default
ABLATION_SAMPLES = 2000

Records = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class _Part:
    """Methods with their records of some images, and the metrics wanted of them."""

    table: Mapping[str, Method]
    records: Records
    images: Sequence[Any]
    metrics: Sequence[str]
    config: Any

    def summary(self, slug: str, scores: Any) -> dict[str, Any]:
        """What a method is, what it keeps and where, and its scores."""
        method, records = self.table[slug], self.records[slug]
        shares = np.array([r["kept"] / r["visual_tokens"] for r in records])
        left, of = (float(np.mean([r[k] for r in records])) for k in ("kept", "visual_tokens"))
        budget = budget_of(method, left, of, self.config)
        kept = {
            "mean": float(shares.mean()),
            "low": float(shares.min()),
            "high": float(shares.max()),
            "tokens": left,
            "of": of,
            "average": budget["average"],
        }
        return {
            **method.about,
            "layer": budget["layer"],
            "kept": kept,
            "values": scores.values,
            "intervals": {k: None if v is None else list(v) for k, v in scores.intervals.items()},
            "reasons": scores.reasons,
        }

    def identity(self) -> dict[str, Any]:
        """What of it decides the scores and their summary."""
        return {
            "records": {slug: canonical(rows) for slug, rows in self.records.items()},
            "methods": {k: [m.label, m.settings, dict(m.groups)] for k, m in self.table.items()},
            "references": {str(e.image_id): list(e.references) for e in self.images},
            "metrics": list(self.metrics),
        }


@dataclass(frozen=True)
class _NotScored:
    """In place of `lib.study.evaluation.metrics.Scores`: every metric is a dash with its reason."""

    values: Mapping[str, None]
    reasons: Mapping[str, str]
    intervals: Mapping[str, None] = field(default_factory=dict)


def make_scores(study: Study) -> bool:
    """Score and summarise all records; False: neither they nor settings or code changed."""
    return any([_score_captions(study), make_readings(study)])


def _score_captions(study: Study) -> bool:
    profile, folder = study.profile, study.folder
    main, few = _read(study)
    identity = {
        "code": scores_code(),
        "main": main.identity(),
        "ablations": few.identity(),
        "n_bootstrap": profile.n_bootstrap,
        "random_state": profile.random_state,
        "margin": profile.margin,
        "spice": None if profile.random_weights else spice_missing() is None,
    }
    key, path = digest(identity), folder / "scores.json"
    if entry(path, "key") == key:
        return False
    document = {
        "key": key,
        "images": len(main.images),
        "ablation_images": len(few.images),
        "ablation_keep": profile.ablation_keep,
        "keep": profile.keep,
        **(_unscored(main, few) if profile.random_weights else _scored(study, main, few)),
    }
    write_json(path, document)
    return True


def _read(study: Study) -> tuple[_Part, _Part]:
    """Table 1's methods on all images, and the sweep on a few of them."""
    profile, folder = study.profile, study.folder
    config = read_config(profile.model, revision=profile.revision)
    table = methods(profile)
    others = swept(profile)
    records = {slug: read_records(folder / "captions" / slug) for slug in table}
    images = examples(profile, progress=study.progress)
    few = examples(profile, limit=profile.few, progress=study.progress)
    wanted = {example.image_id for example in few}
    small = {
        slug: [r for r in records[slug] if r["image_id"] in wanted]
        if slug in table
        else read_records(folder / "ablations" / slug)
        for slug in others
    }
    return (
        _Part(table, records, images, profile.metrics, config),
        _Part(others, small, few, profile.ablation_metrics, config),
    )


def _unscored(main: _Part, few: _Part) -> dict[str, Any]:
    """The summary of captions that mean nothing."""
    found = []
    for part in (main, few):
        names = dict.fromkeys(part.metrics)
        none = _NotScored(names, dict.fromkeys(names, UNSCORED))
        found.append({k: part.summary(k, none) for k in part.table})
    ablated = {slug: row | {"versus": None} for slug, row in found[1].items()}
    none: dict[str, Any] = {"margin": None, "comparisons": {}, "equivalence": []}
    return {"methods": found[0], **none, "ablations": ablated}


def _scored(study: Study, main: _Part, few: _Part) -> dict[str, Any]:
    """The summary, with paired differences; writes the scores of every image beside it."""
    profile = study.profile
    with tqdm(total=2, desc="scores", unit="set", disable=not study.progress) as bar:
        scored = score(main.records, main.images, main.metrics, profile)
        bar.update()
        minor = score(few.records, few.images, few.metrics, profile)
        bar.update()
    declared = comparisons.captions(profile, main.table, scored["unpruned"].metrics)
    for slug, one in scored.items():
        one.save(study.folder / "scores" / f"{slug}.json")
    default = minor.get(f"entropy-{percent(profile.ablation_keep)}")
    versus = {slug: _gaps(one, default) for slug, one in minor.items()}
    ablated = {
        slug: few.summary(slug, minor[slug]) | {"versus": versus[slug]} for slug in few.table
    }
    return {
        "methods": {slug: main.summary(slug, scored[slug]) for slug in main.table},
        "margin": profile.margin,
        "comparisons": compared(scored, declared, profile),
        "equivalence": _equivalence(profile, scored),
        "ablations": ablated,
    }


def score(
    records: Records, images: Sequence[Any], wanted: Sequence[str], profile: Profile
) -> dict[str, metrics.Scores]:
    """The scores of several methods, that of the named objects among them."""
    scored = metrics.score_many(
        records,
        images,
        metrics=wanted,
        n_bootstrap=profile.n_bootstrap,
        random_state=profile.random_state,
    )
    return {slug: with_objects(one, records[slug], images) for slug, one in scored.items()}


def with_objects(
    scores: metrics.Scores, records: Sequence[Mapping[str, Any]], images: Sequence[Any]
) -> metrics.Scores:
    """The scores with the mean F1 of the named objects, where the images say what they show."""
    objects = {e.image_id: e.extra.get("objects") for e in images}
    if any(item is None for item in objects.values()):
        return scores
    captions = {r["image_id"]: r["caption"] for r in records}
    found = [object_f1(captions[i], objects[i]).f1 for i in scores.image_ids.tolist()]
    values, interval = np.array(found), None
    if scores.n_bootstrap:
        interval = mean_interval(
            values, n_bootstrap=scores.n_bootstrap, random_state=scores.random_state
        )
    return dataclasses.replace(
        scores,
        per_image={**scores.per_image, OBJECT_F1: values},
        values={**scores.values, OBJECT_F1: float(values.mean())},
        intervals={**scores.intervals, OBJECT_F1: interval},
    )


def _gaps(a: metrics.Scores, b: metrics.Scores | None) -> dict[str, list[float]] | None:
    """Paired differences of an ablation from the default setting."""
    if b is None:
        return None
    gaps = metrics.compare(a, b, n_bootstrap=ABLATION_SAMPLES)
    return {metric: list(gap) for metric, gap in gaps.items()}


def _equivalence(profile: Profile, scored: Mapping[str, metrics.Scores]) -> list[dict[str, Any]]:
    """Whether two methods differ by less than the margin, by each metric."""
    found = []
    for a, b in comparisons.equal(profile):
        if a in scored and b in scored:
            whole = scored["unpruned"].values
            margins = {name: profile.margin * value for name, value in whole.items() if value}
            tests = equivalence(scored[a], scored[b], margins, random_state=profile.random_state)
            found += [{"a": a, "b": b, **test._asdict()} for test in tests.values()]
    return found
