"""What a profile needs, computed once: captions of every method, their scores, their cost.

    python -m lib study --profile embedded

Everything lands in `build/reproduce/<profile>/results/`: `captions/<slug>/` and `ablations/<slug>/`
(the sweep of keep rates; records and manifest, see `lib.study.records`), `divergence/<part>/` (see
`lib.study.stages.divergence`), `scores/<slug>.json` (scores of every image), `scores.json` (the
summary that tables and figures read), `efficiency.json`, `catalogue/<part>/` and `catalogue.json`
(see `lib.study.stages.catalogue`), and `study.json` (environment, timings). What is committed of
the profile, its reference, stays as it is; `python -m lib compare` says what differs from it, and
`python -m lib publish` makes a run the reference. A killed run continues where it stopped. What
other settings, weights or code made is computed again, and only that (see
`lib.study.dependencies`).

Every GPU of the machine does its share of the images. For several machines with one folder let
accelerate start the processes (`accelerate launch ... -m lib study --profile paper`): they only
caption and measure divergence, a share each, and the command above does the rest.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import Any

from .ablations import ablations
from .captioning import own_gpu
from .evaluation import metrics
from .examples import examples
from .files import write_json
from .labels import OBJECT_F1, RANDOM, TABLE_1, UNSCORED
from .methods import methods, table_1
from .profiles import Profile, load_profile, profile_names
from .records import environment, read_records
from .stages.captions import caption_share, make_captions
from .stages.catalogue import catalogue_share, make_catalogue
from .stages.costs import make_costs
from .stages.divergence import divergence_share, make_divergence
from .stages.meanwhile import Scoring, population
from .stages.scores import make_scores, score
from .stages.study import Study
from .stored import load_efficiency, load_scores, load_study, mark

__all__ = [
    "OBJECT_F1",
    "RANDOM",
    "STAGES",
    "TABLE_1",
    "UNSCORED",
    "ablations",
    "load_efficiency",
    "load_profile",
    "load_scores",
    "load_study",
    "mark",
    "methods",
    "profile_names",
    "run",
    "share",
    "table",
]

#: what a study consists of, in order; "scores" alone needs the records, but no model
STAGES = {
    "captions": make_captions,
    "divergence": make_divergence,
    "scores": make_scores,
    "population": population,
    "efficiency": make_costs,
    "catalogue": make_catalogue,
}


def run(
    profile: Profile,
    *,
    device: str | None = None,
    progress: bool = True,
    workers: int = 1,
    stages: Sequence[str] = tuple(STAGES),
) -> dict[str, Any]:
    """Compute what is missing of a profile; returns `study.json` as a dict.

    device, progress, workers: see `lib.study.stages.study.Study`.
    stages: some of `STAGES`; "scores" continues from records made elsewhere, without the model.
    """
    _known(stages)
    study = Study(profile, device, progress, workers)
    path = study.folder / "study.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    clock: dict[str, float] = dict(before.get("seconds", {}))
    scoring, began = None, 0.0
    for name, make in STAGES.items():
        begin = time.monotonic()
        if name == "scores" and {name, "population"} <= {*stages}:
            scoring, began = Scoring.started(study), begin
        if name in stages and not (name == "scores" and scoring) and make(study):
            clock[name] = time.monotonic() - begin
        if name == "population" and scoring and scoring.finished(study):
            clock["scores"] = time.monotonic() - began
    # without the model, this machine only scored what another one computed
    earlier = before.get("environment")
    made_here = study.device_name is not None or not earlier
    document = {
        "profile": profile.as_dict(),
        "environment": environment(device=study.device_name) if made_here else earlier,
        "seconds": {name: round(seconds, 1) for name, seconds in clock.items()},
    }
    write_json(path, document)
    return document


def share(
    study: Study, *, stages: Sequence[str] = tuple(STAGES), only: Sequence[str] | None = None
) -> None:
    """What one of several launched processes does: its share of captions and divergences.

    only: slugs of Table 1 to caption, see `make_captions`.
    """
    _known(stages)
    study.device = study.device or own_gpu()
    study.progress = study.progress and os.environ["RANK"] == "0"
    if "captions" in stages:
        caption_share(study, only=only)
    if "divergence" in stages and not only:
        divergence_share(study)
    if "catalogue" in stages and not only:
        catalogue_share(study)


def _known(stages: Sequence[str]) -> None:
    if unknown := set(stages) - set(STAGES):
        raise ValueError(f"unknown stage {min(unknown)!r}: choose from {', '.join(STAGES)}")


def table(
    profile: Profile, *, device: str | None = None, progress: bool = True, workers: int = 1
) -> str:
    """Caption with the paper's rows of Table 1 alone and score them: Markdown with intervals.

    The records go where `run` looks for them, so that a whole run continues from them.
    """
    if profile.random_weights:
        raise ValueError(f"profile {profile.profile!r} has no scores to print: {UNSCORED}")
    study = Study(profile, device, progress, workers)
    slugs, rows = table_1(profile), methods(profile)
    make_captions(study, only=slugs)
    records = {slug: read_records(study.folder / "captions" / slug) for slug in slugs}
    scored = score(records, examples(profile, progress=progress), profile.metrics, profile)
    return metrics.format_table(
        {rows[slug].label: one for slug, one in scored.items()}, markdown=True
    )
