"""What the catalogue's records say: `catalogue.json`, with comparisons against chance and FastV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ...selection import coverage
from ..cost.parts import Parts
from ..cost.probe import Probe
from ..cost.prompts import study_prompts
from ..cost.timing import Timing, machine
from ..dependencies import catalogue_code, costs_code
from ..evaluation import score_many
from ..files import entry, write_json
from ..grid import AVERAGES, questions, tail_of
from ..labels import DIVERGENCE
from ..methods import Method
from ..profiles import Profile
from ..records import canonical, digest, method_places, read_records
from .divergence import REFERENCES
from .part import Part
from .readings import compared, readings, with_intervals
from .study import Study, threads

__all__ = ["make_ranking", "spoken"]

METRIC = "CIDEr"
#: images of which each is read once, for times and coverage
PASSES = 4


def make_ranking(study: Study, divergence: Part, captions: Part | None = None) -> bool:
    """Summarise the records and time the scorers; False: nothing changed since."""
    profile, path, table = study.profile, study.folder / "catalogue.json", divergence.table
    key = _key(profile, [part for part in (divergence, captions) if part is not None], table)
    if entry(path, "key") == key:
        return False
    config = study.loaded.model.config
    depth = config.get_text_config().num_hidden_layers
    scores, kept = readings(divergence.folder)
    pruned = {slug: method for slug, method in table.items() if method.name}
    comparisons = compared(scores, questions(pruned, (DIVERGENCE,)), profile)
    found: dict[str, Any] = {
        slug: _row(method, kept[slug], depth) | with_intervals(scores[slug], profile)
        for slug, method in table.items()
    }
    if captions is not None:
        said = score_many(
            spoken(captions.folder), captions.images, metrics=(METRIC,),
            n_bootstrap=profile.n_bootstrap, random_state=profile.random_state,
        )  # fmt: skip
        for slug, one in said.items():
            more = {"values": one.values, "intervals": _plain(one.intervals)}
            found[slug] = {k: v | more[k] if k in more else v for k, v in found[slug].items()}
        comparisons |= compared(said, questions(pruned, (METRIC,)), profile)
    costs, where = _costs(study, divergence, pruned)
    write_json(path, {
        "key": key,
        "images": len(divergence.images),
        "captioned": 0 if captions is None else len(captions.images),
        "references": REFERENCES,
        "tokens": round(kept["unpruned"][1]),  # on average, where images differ
        "depth": depth,
        "machine": where,
        "methods": {slug: row | costs.get(slug, {}) for slug, row in found.items()},
        "comparisons": comparisons,
    })  # fmt: skip
    return True


def _key(profile: Profile, parts: Sequence[Part], table: Mapping[str, Method]) -> str:
    """What the summary was made from."""
    return digest({
        "code": catalogue_code(),
        "costs": costs_code(),
        "records": [canonical(read_records(part.folder)) for part in parts],
        "methods": {k: [m.label, m.settings, dict(m.groups)] for k, m in table.items()},
        "references": [[list(e.references) for e in part.images] for part in parts],
        "n_bootstrap": profile.n_bootstrap,
        "random_state": profile.random_state,
    })  # fmt: skip


def spoken(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The captions of a folder, `{slug: records}`."""
    rows = read_records(folder)
    return {
        slug: [
            {"image_id": row["image_id"], "caption": row["captions"][row["which"][place]]}
            for row in rows
        ]
        for slug, place in method_places(folder).items()
    }


def _row(method: Method, kept: tuple[float, float], depth: int) -> dict[str, Any]:
    """What a method is, and its budget: asked for, planned over the layers, and what is left."""
    left, of = kept
    pruner = method.create()
    counts = [round(of)] * depth if pruner is None else pruner.layer_counts(round(of), depth)
    stages = [] if pruner is None else pruner.stage_counts(round(of), depth)
    return {
        **method.about,
        "layers": [layer for layer, _ in stages],
        "kept": left,
        "of": of,
        "average": sum(counts) / depth,
    }


def _plain(intervals: Mapping[str, Sequence[float] | None]) -> dict[str, list[float] | None]:
    return {name: None if pair is None else list(pair) for name, pair in intervals.items()}


def _costs(
    study: Study, part: Part, table: Mapping[str, Method]
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Seconds of choosing and of the prefill, and coverage, at the middle average; the machine."""
    profile, (model, processor, _) = study.profile, study.loaded
    prompts = [
        study_prompts(model, processor, [image], profile.prompt, 1)
        for image in part.images[:PASSES]
    ]
    middle = tail_of(AVERAGES[len(AVERAGES) // 2])
    rows = {}
    with threads(model.device, 1), torch.inference_mode():
        encoded = [Probe(model, prompt, None, 1).vision().pooler_output for prompt in prompts]
        for slug, method in table.items():
            if method.groups["average"] == middle:
                probes = [Probe(model, prompt, method.create(), 1) for prompt in prompts]
                rows[slug] = _timed(probes)
                if not probes[0].pruner.merges:
                    covered = [
                        float(coverage(features.float(), mask.to(features.device)))
                        for probe, image in zip(probes, encoded, strict=True)
                        for features, mask in zip(image, probe.pruner.kept_masks, strict=True)
                    ]
                    rows[slug]["coverage"] = sum(covered) / len(covered)
        return rows, machine()


def _timed(probes: Sequence[Probe]) -> dict[str, Any]:
    """Choosing and the whole prefill, an image each; the first one warms up, if there are more."""
    found = []
    for probe in probes:
        parts = Parts(probe.device)
        with probe.active(), parts.watching(probe.model, probe.pruner):
            probe.prefill()
        found.append(parts.seconds())
    return {
        name: asdict(Timing.of([one[name] for one in found[1:] or found]))
        for name in ("scorer", "prefill")
    }
