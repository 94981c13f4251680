"""The captions of a study: what is missing is made, what other settings or code made goes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..captioning.parameters import manifest_parameters
from ..dependencies import captions_code
from ..examples import examples
from ..files import entry
from ..methods import Method, methods, swept
from ..models import full_prompt
from ..records import MANIFEST, read_records
from . import sharing
from .divergence import Divergences, parts
from .study import Study

__all__ = ["Job", "jobs", "make_captions"]


@dataclass(frozen=True)
class Job:
    """Methods to caption one set of images with.

    settings: what the manifests hold beside the method. extra: the study's own part of it.
    measured: divergences of the same methods, to be measured on the way.
    """

    folder: Path
    images: Sequence[Any]
    table: Mapping[str, Method]
    settings: Mapping[str, Any]
    extra: Mapping[str, Any]
    measured: Divergences | None = None

    def run(self, study: Study, **place: int) -> None:
        """Caption what is missing; `place` is this process's rank among several."""
        pruners = {slug: method.create() for slug, method in self.table.items()}
        part, more = self.measured, {"parameters": self.extra, **place}
        with part.overheard(study, **place) if part else contextlib.nullcontext() as listener:
            study.caption(self.images, pruners, self.folder, listener=listener, **more)

    @property
    def missing(self) -> int:
        """Captions that are not recorded yet."""
        wanted = len(self.images) * len(self.table)
        for slug in self.table:
            with contextlib.suppress(FileNotFoundError):
                wanted -= len(read_records(self.folder / slug))
        return wanted


def make_captions(study: Study, *, only: Sequence[str] | None = None) -> bool:
    """Caption what is missing, with several processes if there is enough; False: nothing was.

    only: slugs of Table 1 to caption; by default all methods and the sweep.
    """
    todo = jobs(study)
    for job in todo:
        _drop_stale(job)
        if job.measured:
            job.measured.drop_stale()
    return sharing.complete(study, restricted(todo, only), stage="captions", table=bool(only))


def caption_share(study: Study, *, only: Sequence[str] | None = None) -> None:
    """What one of several launched processes does: its share of the captions, nothing else."""
    sharing.share(study, restricted(jobs(study), only))


def jobs(study: Study) -> list[Job]:
    """Table 1's methods on all images, and the other keep rates on a few of them."""
    profile, (model, processor, _) = study.profile, study.loaded
    prompt = full_prompt(processor, profile.prompt)
    extra = {"source": study.source, "code": captions_code(model.device.type)}
    main = methods(profile)
    # what Table 1 already captions is not captioned again for the sweep
    rest = {k: m for k, m in swept(profile).items() if k not in main}
    few = examples(profile, limit=profile.few, progress=study.progress)
    everything = examples(profile, progress=study.progress)
    found = []
    measured = None if profile.random_weights else parts(study)[0]
    for part, table, images, on_the_way in (
        ("captions", main, everything, measured),
        ("ablations", rest, few, None),
    ):
        settings = manifest_parameters(model, prompt, profile.max_new_tokens, images, extra)
        folder = study.folder / part
        found.append(Job(folder, images, table, settings, extra, on_the_way))
    return found


def restricted(todo: list[Job], only: Sequence[str] | None) -> list[Job]:
    """The first job with the named methods alone, or all jobs as they are."""
    if not only:
        return todo
    table = {slug: todo[0].table[slug] for slug in only}
    return [dataclasses.replace(todo[0], table=table, measured=None)]


def _drop_stale(job: Job) -> None:
    """Delete the records of other settings, weights or code, and of methods no longer studied."""
    for stored in sorted(job.folder.glob(f"*/{MANIFEST}")):
        method = job.table.get(stored.parent.name)
        if method is not None:
            wanted = {"method": method.settings, **job.settings}
            if entry(stored, "parameters") == json.loads(json.dumps(wanted, default=str)):
                continue
        tqdm.write(f"{stored.parent}: made with other settings or code, computed again")
        shutil.rmtree(stored.parent)
