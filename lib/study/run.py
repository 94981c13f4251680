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
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from .captioning import own_gpu
from .evaluation import metrics
from .examples import examples
from .files import write_json
from .labels import UNSCORED
from .methods import methods, table_1
from .profiles import Profile
from .records import environment, read_records
from .stages.captions import caption_share, make_captions
from .stages.catalogue import catalogue_share, make_catalogue
from .stages.costs import make_costs
from .stages.divergence import divergence_share, make_divergence
from .stages.meanwhile import Meanwhile
from .stages.population import make_population
from .stages.scores import make_scores, score
from .stages.stage import Stage
from .stages.study import Study

__all__ = ["STAGES", "needs_model", "run", "share", "table"]

#: what a study consists of, in order
STAGES = {
    "captions": Stage(make_captions, caption_share),
    "divergence": Stage(make_divergence, divergence_share),
    "scores": Stage(make_scores, model=False),
    # tensors of one image are small: several threads wait for each other, ten times as long
    "population": Stage(make_population, one_core=True),
    "efficiency": Stage(make_costs),
    "catalogue": Stage(make_catalogue, catalogue_share),
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
    stages: some of `STAGES`; those that need no model continue from records made elsewhere.
    """
    _known(stages)
    study = Study(profile, device, progress, workers)
    path = study.folder / "study.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    clock: dict[str, float] = dict(before.get("seconds", {}))
    for name, seconds in _made(study, [name for name in STAGES if name in stages]):
        clock[name] = seconds
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


def _made(study: Study, names: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Do these stages; names and seconds of those of which something was missing."""
    aside = None
    for name, following in zip_longest(names, names[1:]):
        stage, begin = STAGES[name], time.monotonic()
        beside = stage.beside(STAGES.get(following))
        if beside and (meanwhile := Meanwhile.started(study, stage.make)):
            aside = name, begin, meanwhile
            continue
        if stage.run(study):
            yield name, time.monotonic() - begin
        if aside:
            other, began, meanwhile = aside
            if meanwhile.finished(study):
                yield other, time.monotonic() - began
            aside = None


def share(
    study: Study, *, stages: Sequence[str] = tuple(STAGES), only: Sequence[str] | None = None
) -> None:
    """What one of several launched processes does: its share of what can be shared.

    only: slugs of Table 1 to caption, and nothing else, see `make_captions`.
    """
    _known(stages)
    study.device = study.device or own_gpu()
    study.progress = study.progress and os.environ["RANK"] == "0"
    if only:
        caption_share(study, only=only)
        return
    for name, stage in STAGES.items():
        if name in stages and stage.share:
            stage.share(study)


def needs_model(stages: Sequence[str]) -> bool:
    """Whether any of some `STAGES` needs the model; raises ValueError for an unknown one."""
    _known(stages)
    return any(STAGES[name].model for name in stages)


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
