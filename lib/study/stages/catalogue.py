"""The catalogue: every registered method at equal average tokens, in `catalogue/` and a summary.

`catalogue/divergence/` holds one record an image with a number for every run of `lib.study.grid`,
`catalogue/captions/` what each of them says of the first of these images, and `catalogue.json` the
summary (`lib.study.stages.ranking`). A profile says how many images there are; with none, and with
random weights, there is no catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from tqdm.auto import tqdm

from ..captioning import caption_methods, ranks
from ..captioning.loop import cut
from ..captioning.parameters import manifest_parameters
from ..dependencies import captions_code, divergence_code
from ..examples import examples
from ..fitting import fitted
from ..grid import catalogue
from ..methods import Method
from ..models import full_prompt
from ..records import RecordFolder, environment
from . import sharing
from .divergence import REFERENCES, Part, drop_stale
from .ranking import make_ranking
from .study import Study

__all__ = ["Captions", "catalogue_share", "make_catalogue", "parts"]


@dataclass(frozen=True)
class Captions(Part):
    """What every method says of one set of images: one record an image."""

    def run(self, study: Study, *, rank: int = 0, world_size: int = 1) -> None:
        """Caption what is missing, or this rank's share of it."""
        profile, (model, processor, _) = study.profile, study.loaded
        device = model.device
        about = environment(
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            batch_size=profile.batch_size,
            processes=world_size,
        )
        batches = cut(self.images, profile.batch_size)
        place = {"rank": rank, "world_size": world_size}
        with RecordFolder(self.folder, self.parameters, run=about, **place) as store:
            pending = [b for b in batches if any(int(e.image_id) not in store.done for e in b)]
            mine = ranks.share(pending, batches, rank, world_size)
            pruners = {slug: method.create() for slug, method in self.table.items()}
            for batch in tqdm(mine, desc="captions", unit="batch", disable=not study.progress):
                made = caption_methods(
                    model, processor, batch, pruners, None,
                    prompt=profile.prompt, batch_size=profile.batch_size,
                    max_new_tokens=profile.max_new_tokens, progress=False, rank=0, world_size=1,
                )  # fmt: skip
                store.append([said(rows) for rows in zip(*made.values(), strict=True)])
            store.finish([int(image.image_id) for image in self.images])


def said(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One image's record of all methods: the different captions, and which of them each says.

    >>> said([{"image_id": 7, "caption": text} for text in ("a dog", "a cat", "a dog")])
    {'image_id': 7, 'captions': ['a dog', 'a cat'], 'which': [0, 1, 0]}
    """
    captions = list(dict.fromkeys(row["caption"] for row in rows))
    which = [captions.index(row["caption"]) for row in rows]
    return {"image_id": rows[0]["image_id"], "captions": captions, "which": which}


def make_catalogue(study: Study) -> bool:
    """Measure and summarise what is missing; False: nothing was."""
    if not _wanted(study):
        return False
    todo = parts(study)
    for part in todo:
        drop_stale(part)
    missing = sum(part.missing for part in todo)
    if study.workers > 1 and missing > sharing.WORTH_SHARING:
        sharing.together(study, todo, stage="catalogue")
    for part in todo:
        part.run(study)
    return make_ranking(study, *todo) or missing > 0


def catalogue_share(study: Study) -> None:
    """What one of several launched processes does: its share of the images."""
    for number, part in enumerate(parts(study) if _wanted(study) else ()):
        part.run(study, **sharing.launched(number))


def _wanted(study: Study) -> bool:
    return bool(study.profile.catalogue_limit) and not study.profile.random_weights


def parts(study: Study) -> list[Part]:
    """The divergences, and the captions of as many of the images as the profile says."""
    profile, (model, processor, _) = study.profile, study.loaded
    table = {"unpruned": Method("Unpruned", None)}
    runs = catalogue(model.config.get_text_config().num_hidden_layers)
    for slug, method in runs.items():
        if (options := fitted(profile, method.name, method.options)) is not None:
            table[slug] = replace(method, options=options)
    everything = examples(profile, limit=profile.catalogue_limit, progress=study.progress)
    prompt, settings = full_prompt(processor, profile.prompt), {}
    for slug, method in table.items():
        settings[slug] = method.settings
    found: list[Part] = []
    for name, kind, count in (
        ("divergence", Part, None),
        ("captions", Captions, profile.captioned),
    ):
        images = everything[:count]
        code = (captions_code if kind is Captions else divergence_code)(model.device.type)
        parameters = manifest_parameters(
            model, prompt, profile.max_new_tokens, images, {"source": study.source, "code": code}
        )
        if kind is Part:
            del parameters["decoding"]  # nothing is generated
            parameters["references"] = REFERENCES
        if images:
            folder = study.folder / "catalogue" / name
            found.append(kind(folder, images, table, {"methods": settings, **parameters}))
    return found
