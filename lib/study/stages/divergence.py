"""How far every method moves the model's predictions: what is missing is measured.

Three parts, each a folder with one record an image that holds all of its methods: "table" (Table
1), "ablations" (the sweep of keep rates among them) and "places" (`lib.study.places`). A profile of
random weights has none, since there is nothing in its predictions to move.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ..ablations import ablations
from ..captioning import ranks
from ..captioning.loop import cut
from ..captioning.parameters import manifest_parameters
from ..dependencies import divergence_code
from ..divergence import divergences
from ..examples import examples
from ..methods import Method, methods
from ..models import full_prompt
from ..places import places
from ..records import MANIFEST, RecordFolder, environment, read_records
from . import sharing
from .study import Study

__all__ = [
    "PARTS",
    "REFERENCES",
    "Part",
    "divergence_share",
    "drop_stale",
    "make_divergence",
    "tables",
]

#: captions of an image that are read
REFERENCES = 2
#: what is measured, and on the images of which profile entry
PARTS = ("table", "ablations", "places")
#: digits that records keep: what is left out is far below any standard error
DIGITS = 5


@dataclass(frozen=True)
class Part:
    """Methods whose divergence is measured on one set of images; parameters: of its manifest."""

    folder: Path
    images: Sequence[Any]
    table: Mapping[str, Method]
    parameters: Mapping[str, Any]

    @property
    def missing(self) -> int:
        """Images without a record, times methods."""
        done = read_records(self.folder) if any(self.folder.glob("records*")) else []
        return (len(self.images) - len(done)) * len(self.table)

    def run(self, study: Study, *, rank: int = 0, world_size: int = 1) -> None:
        """Measure what is missing, or this rank's share of it."""
        profile, (model, processor, _) = study.profile, study.loaded
        device = model.device
        about = environment(
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            batch_size=profile.batch_size,
            processes=world_size,
        )
        order = [int(image.image_id) for image in self.images]
        batches = cut(self.images, profile.batch_size)
        place = {"rank": rank, "world_size": world_size}
        with RecordFolder(self.folder, self.parameters, run=about, **place) as store:
            pending = [b for b in batches if any(int(e.image_id) not in store.done for e in b)]
            mine = ranks.share(pending, batches, rank, world_size)
            if mine:
                found = divergences(
                    model,
                    processor,
                    mine,
                    {slug: method.create() for slug, method in self.table.items()},
                    prompt=profile.prompt,
                    references=REFERENCES,
                    progress=study.progress,
                )
                for _, records in found:
                    store.append(lean(records))
            store.finish(order)


def lean(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """One record an image, with a list over the methods for each number."""
    merged = []
    for rows in zip(*records.values(), strict=True):
        line = {name: rows[0][name] for name in ("image_id", "tokens", "visual_tokens")}
        for name in ("kl", "nll"):
            line[name] = [float(f"{row[name]:.{DIGITS}g}") for row in rows]
        merged.append(line | {"kept": [row["kept"] for row in rows]})
    return merged


def make_divergence(study: Study) -> bool:
    """Measure what is missing, with several processes if there is enough; False: nothing was."""
    if study.profile.random_weights:
        return False
    todo = parts(study)
    for part in todo:
        drop_stale(part)
    missing = sum(part.missing for part in todo)
    if study.workers > 1 and missing > sharing.WORTH_SHARING:
        sharing.together(study, todo, stage="divergence")
    for part in todo:
        part.run(study)
    return missing > 0


def divergence_share(study: Study) -> None:
    """What one of several launched processes does: its share of the images."""
    if not study.profile.random_weights:
        for number, part in enumerate(parts(study)):
            part.run(study, **sharing.launched(number))


def tables(study: Study, config: Any) -> dict[str, tuple[dict[str, Method], list[Any]]]:
    """`{part: (methods, images)}` of a model with this configuration."""
    profile = study.profile

    def images(limit: int | None) -> list[Any]:
        return examples(profile, limit=limit, progress=study.progress)

    few, many = images(profile.few), images(profile.read)
    tables = methods(profile), ablations(profile, config), places(profile, config)
    return {
        name: (table, images)
        for name, table, images in zip(PARTS, tables, (many, few, few))
        if table
    }


def parts(study: Study) -> list[Part]:
    """The parts with the parameters of their manifests."""
    model, processor, _ = study.loaded
    prompt = full_prompt(processor, study.profile.prompt)
    found = []
    for name, (table, images) in tables(study, model.config).items():
        shared = manifest_parameters(
            model, prompt, 1, images, {"source": study.source, "code": _code(model)}
        )
        for entry in ("decoding", "kept_indices", "token_ids"):  # nothing is generated
            del shared[entry]
        settings = {slug: method.settings for slug, method in table.items()}
        parameters = {"methods": settings, "references": REFERENCES, **shared}
        found.append(Part(study.folder / "divergence" / name, images, table, parameters))
    return found


def _code(model: Any) -> str:
    return divergence_code(model.device.type)


def drop_stale(part: Part) -> None:
    """Delete the records of other settings, weights, methods or code."""
    stored = part.folder / MANIFEST
    if not stored.is_file():
        return
    try:
        found = json.loads(stored.read_text(encoding="utf-8"))["parameters"]
    except (ValueError, KeyError, TypeError):
        found = None
    wanted = json.loads(json.dumps(part.parameters, default=str))
    # the order of the methods is that of the numbers in a record
    if found != wanted or list(found["methods"]) != list(wanted["methods"]):
        tqdm.write(f"{part.folder}: made with other settings or code, computed again")
        shutil.rmtree(part.folder)
