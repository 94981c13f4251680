"""The scores of a study's captions: `scores.json`, and those of every image in `scores/`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..data.scenes import object_f1
from ..dependencies import scores_code
from ..evaluation import mean_interval, metrics, spice_missing
from ..examples import examples
from ..files import write_json
from ..labels import OBJECT_F1, UNSCORED, percent
from ..methods import Method, methods, swept
from ..profiles import Profile
from ..records import canonical, digest, read_records
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
    """Score all records; False: neither they nor the settings or the code changed."""
    profile, folder = study.profile, study.folder
    main, few = _read(study)
    identity = {
        "code": scores_code(),
        "main": main.identity(),
        "ablations": few.identity(),
        "n_bootstrap": profile.n_bootstrap,
        "random_state": profile.random_state,
        "spice": None if profile.random_weights else spice_missing() is None,
    }
    key, path = digest(identity), folder / "scores.json"
    if _stored_key(path) == key:
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


def _stored_key(path: Path) -> str | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read(study: Study) -> tuple[_Part, _Part]:
    """Table 1's methods on all images, and the sweep on a few of them."""
    profile, folder = study.profile, study.folder
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
        _Part(table, records, images, profile.metrics),
        _Part(others, small, few, profile.ablation_metrics),
    )


def _unscored(main: _Part, few: _Part) -> dict[str, Any]:
    """The summary of captions that mean nothing."""
    found = []
    for part in (main, few):
        names = dict.fromkeys(part.metrics)
        none = _NotScored(names, dict.fromkeys(names, UNSCORED))
        found.append({k: _summary(m, none, part.records[k]) for k, m in part.table.items()})
    ablated = {slug: row | {"versus": None} for slug, row in found[1].items()}
    return {"methods": found[0], "differences": [], "ablations": ablated}


def _scored(study: Study, main: _Part, few: _Part) -> dict[str, Any]:
    """The summary, with paired differences; writes the scores of every image beside it."""
    profile = study.profile
    with tqdm(total=2, desc="scores", unit="set", disable=not study.progress) as bar:
        scored = score(main.records, main.images, main.metrics, profile)
        bar.update()
        minor = score(few.records, few.images, few.metrics, profile)
        bar.update()
    for slug, one in scored.items():
        one.save(study.folder / "scores" / f"{slug}.json")
    default = minor.get(f"entropy-{percent(profile.ablation_keep)}")
    versus = {slug: _gaps(one, default) for slug, one in minor.items()}
    ablated = {
        slug: _summary(method, minor[slug], few.records[slug]) | {"versus": versus[slug]}
        for slug, method in few.table.items()
    }
    return {
        "methods": {k: _summary(m, scored[k], main.records[k]) for k, m in main.table.items()},
        "differences": _differences(profile, scored),
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


def _summary(method: Method, scores: Any, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    shares = np.array([r["kept"] / r["visual_tokens"] for r in records])
    kept = {
        "mean": float(shares.mean()),
        "low": float(shares.min()),
        "high": float(shares.max()),
        "tokens": float(np.mean([r["kept"] for r in records])),
        "of": int(records[0]["visual_tokens"]),
    }
    return {
        "label": method.label,
        "method": method.name or "unpruned",
        "options": {k: list(v) if isinstance(v, tuple) else v for k, v in method.options.items()},
        "groups": dict(method.groups),
        "kept": kept,
        "values": scores.values,
        "intervals": {k: None if v is None else list(v) for k, v in scores.intervals.items()},
        "reasons": scores.reasons,
    }


def _gaps(a: metrics.Scores, b: metrics.Scores | None) -> dict[str, list[float]] | None:
    """Paired differences of an ablation from the default setting."""
    if b is None:
        return None
    gaps = metrics.compare(a, b, n_bootstrap=ABLATION_SAMPLES)
    return {metric: list(gap) for metric, gap in gaps.items()}


def _differences(profile: Profile, scored: Mapping[str, metrics.Scores]) -> list[dict[str, Any]]:
    """Paired differences: everything against the unpruned model, and Entropy-Prune's rivals."""
    ours = f"entropy-{percent(profile.keep)}"
    pairs = [(slug, "unpruned") for slug in scored if slug != "unpruned"]
    pairs += [(ours, slug) for slug in scored if slug not in ("unpruned", ours)]
    found = []
    for a, b in pairs:
        gaps = metrics.compare(scored[a], scored[b], random_state=profile.random_state)
        found.append({"a": a, "b": b, "metrics": {k: list(gap) for k, gap in gaps.items()}})
    return found
