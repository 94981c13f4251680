"""How far every method moves the model's predictions: what is missing is measured.

Three parts, each a folder with one record an image that holds all of its methods: "table" (Table
1), "ablations" (the sweep of keep rates among them) and "places" (`lib.study.places`). Table 1's
methods are measured while they caption (`lib.study.stages.captions`), and here where that was not
done. A profile of random weights has none, since there is nothing in its predictions to move.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..ablations import ablations
from ..captioning.parameters import manifest_parameters
from ..dependencies import divergence_code
from ..divergence import Overheard, divergences
from ..examples import examples
from ..methods import Method, methods
from ..models import full_prompt
from ..places import places
from . import sharing
from .part import Part
from .study import Study

__all__ = ["PARTS", "REFERENCES", "Divergences", "divergence_share", "make_divergence", "tables"]

#: captions of an image that are read
REFERENCES = 2
#: what is measured, and on the images of which profile entry
PARTS = ("table", "ablations", "places")
#: digits that records keep: what is left out is far below any standard error
DIGITS = 5


class Divergences(Part):
    """The divergence of every method on one set of images."""

    def measured(
        self, study: Study, batches: Sequence[Sequence[Any]], pruners: Mapping[str, Any]
    ) -> Iterator[list[dict[str, Any]]]:
        """See `Part.measured`."""
        model, processor, _ = study.loaded
        found = divergences(
            model,
            processor,
            batches,
            pruners,
            prompt=study.profile.prompt,
            references=REFERENCES,
            progress=study.progress,
        )
        return (lean(records) for _, records in found)

    @contextmanager
    def overheard(self, study: Study, *, rank: int = 0, world_size: int = 1) -> Iterator[Overheard]:
        """Inside the block, what these methods caption is measured, too, where it is missing."""
        model, processor, _ = study.loaded
        with self.store(study, rank=rank, world_size=world_size) as store:

            def wanted(batch: Sequence[Any]) -> bool:
                return any(int(image.image_id) not in store.done for image in batch)

            yield Overheard(
                model,
                processor,
                list(self.table),
                lambda records: store.append(lean(records)),
                prompt=study.profile.prompt,
                references=REFERENCES,
                wanted=wanted,
            )


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
        part.drop_stale()
    return sharing.complete(study, todo, stage="divergence")


def divergence_share(study: Study) -> None:
    """What one of several launched processes does: its share of the images."""
    if not study.profile.random_weights:
        sharing.share(study, parts(study))


def tables(study: Study, config: Any) -> dict[str, tuple[dict[str, Method], list[Any]]]:
    """`{part: (methods, images)}` of a model with this configuration."""
    profile = study.profile
    few, many = (
        examples(profile, limit=limit, progress=study.progress)
        for limit in (profile.few, profile.limit)
    )
    asked = (
        (methods(profile), many), (ablations(profile, config), few), (places(profile, config), few)
    )  # fmt: skip
    return {name: part for name, part in zip(PARTS, asked) if part[0]}


def parts(study: Study) -> list[Divergences]:
    """The parts with the parameters of their manifests."""
    model, processor, _ = study.loaded
    prompt, code = full_prompt(processor, study.profile.prompt), divergence_code(model.device.type)
    found = []
    for name, (table, images) in tables(study, model.config).items():
        shared = manifest_parameters(
            model, prompt, 1, images, {"source": study.source, "code": code}
        )
        for entry in ("decoding", "kept_indices", "token_ids"):  # nothing is generated
            del shared[entry]
        settings = {slug: method.settings for slug, method in table.items()}
        parameters = {"methods": settings, "references": REFERENCES, **shared}
        found.append(Divergences(study.folder / "divergence" / name, images, table, parameters))
    return found
