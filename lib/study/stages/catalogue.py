"""The catalogue: every registered method at equal average tokens, in `catalogue/` and a summary.

`catalogue/divergence/` holds one record an image with a number for every run of `lib.study.grid`,
`catalogue/captions/` what each of them says of the first of these images, and `catalogue.json` the
summary (`lib.study.stages.ranking`). A profile says how many images there are; with none, and with
random weights, there is no catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tqdm.auto import tqdm

from ..captioning.parameters import manifest_parameters
from ..dependencies import captions_code, divergence_code
from ..examples import examples
from ..fitting import fitted
from ..grid import catalogue
from ..methods import Method
from ..models import full_prompt
from . import sharing
from .divergence import REFERENCES, Divergences
from .part import Part
from .ranking import make_ranking
from .study import Study

__all__ = ["Captions", "catalogue_share", "make_catalogue", "parts"]


class Captions(Part):
    """What every method says of one set of images."""

    def measured(
        self, study: Study, batches: Sequence[Sequence[Any]], pruners: Mapping[str, Any]
    ) -> Iterator[list[dict[str, Any]]]:
        """See `Part.measured`."""
        alone = {"progress": False, "rank": 0, "world_size": 1}
        for batch in tqdm(batches, desc="captions", unit="batch", disable=not study.progress):
            made = study.caption(batch, pruners, None, **alone)
            yield [said(rows) for rows in zip(*made.values(), strict=True)]


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
        part.drop_stale()
    measured = sharing.complete(study, todo, stage="catalogue")
    return make_ranking(study, *todo) or measured


def catalogue_share(study: Study) -> None:
    """What one of several launched processes does: its share of the images."""
    if _wanted(study):
        sharing.share(study, parts(study))


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
    prompt = full_prompt(processor, profile.prompt)
    settings = {slug: method.settings for slug, method in table.items()}
    found: list[Part] = []
    for name, kind, images, code_of in (
        ("divergence", Divergences, everything, divergence_code),
        ("captions", Captions, everything[: profile.captioned], captions_code),
    ):
        if not images:
            continue
        extra = {"source": study.source, "code": code_of(model.device.type)}
        parameters = manifest_parameters(model, prompt, profile.max_new_tokens, images, extra)
        if kind is Divergences:
            del parameters["decoding"]  # nothing is generated
            parameters["references"] = REFERENCES
        folder = study.folder / "catalogue" / name
        found.append(kind(folder, images, table, {"methods": settings, **parameters}))
    return found
