"""What the figures show of one image, measured on many: `population.json`.

Up to `population_limit` images of the profile are read once each, with the answer that the
unpruned model gave when it was captioned. Every measure of `lib.study.inspection.population` is
stored with its mean, standard deviation, percentiles and count, and plain numbers with the value of
every image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...entropy import leave_one_out
from ...geometry import feature_layer
from ..captioning.images import load_image
from ..data.scenes import patch_labels, sample_scene
from ..dependencies import population_code
from ..divergence import reference_ids
from ..examples import examples
from ..files import entry, write_json
from ..inspection import population, states
from ..inspection.population import Numbers
from ..inspection.reading import read
from ..models import full_prompt, read_config
from ..records import canonical, digest, read_records
from .study import Study

__all__ = ["make_population", "summary"]

#: what is stored of a measure over the images
PERCENTILES = {"low": 2.5, "first quartile": 25, "median": 50, "third quartile": 75, "high": 97.5}


def make_population(study: Study) -> bool:
    """Measure the profile's images; False: nothing changed, or the figures know no such model."""
    profile, path = study.profile, study.folder / "population.json"
    records = read_records(study.folder / "captions" / "unpruned")
    key = digest(
        {
            "code": population_code(),
            "profile": {name: profile.as_dict()[name] for name in _DECIDING},
            "records": canonical(records),
        }
    )
    if entry(path, "key") == key or not _known(study):
        return False
    count = min(profile.population_limit, len(records))
    chosen = examples(profile, limit=count, progress=study.progress)
    said = {record["image_id"]: record["caption"] for record in records}
    found = _measured(study, chosen, said)
    document = {
        "key": key,
        "images": len(chosen),
        "ids": [one.image_id for one in chosen],
        "model": profile.model,
        "numbers": Numbers.for_tokens(found.pop("tokens"))._asdict(),
        "measures": {
            group: {name: summary(values) for name, values in measures.items()}
            for group, measures in found.items()
        },
    }
    write_json(path, document)
    return True


#: of a profile; its images are those that were captioned, wherever their files lie now
_DECIDING = ("model", "revision", "dtype", "population_limit", "prompt", "random_state")


def _known(study: Study) -> bool:
    """Whether the figures know such a model; its weights are not needed to say so."""
    try:
        states.checked(read_config(study.profile.model, revision=study.profile.revision))
    except TypeError:
        return False
    return True


def _measured(study: Study, chosen: Sequence[Any], said: Mapping[int, str]) -> dict[str, Any]:
    """`{group: {measure: a value an image}}`."""
    model, processor, _ = study.loaded
    grid = states.grid(model.config)
    numbers = Numbers.for_tokens(grid[0] * grid[1])
    merged = states.default_layers(model.config)
    prompt = full_prompt(processor, study.profile.prompt)
    groups: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("attention", "criteria", "clusters", "agreement")
    }
    grams: list[Tensor] = []
    for example in tqdm(chosen, desc="population", unit="image", disable=not study.progress):
        caption = said[example.image_id]
        if not caption.strip():
            continue  # no word to look from
        answer = torch.tensor(reference_ids(model, processor, prompt, caption)[:-1])
        reading = read(model, _inputs(model, processor, example, prompt), answer)
        scores, objects = leave_one_out(reading.vision[-1]), _objects(study, example, grid)
        values, labels = population.choice(reading, scores, grid, numbers)
        groups["attention"].append(population.attention(reading))
        groups["criteria"].append(population.criteria(reading, scores, objects))
        groups["clusters"].append(values)
        groups["agreement"].append(population.rollouts(reading, scores, merged))
        grams.append(population.stages(reading, labels, numbers.clusters))
    last = feature_layer(model.config)
    found = {name: _columns(rows) for name, rows in groups.items()}
    if grams:
        stacked = torch.stack(grams, dim=1)
        found["rollout"] = dict(population.inversions(stacked, last, len(merged)))
    return found | {"tokens": grid[0] * grid[1]}


def _inputs(model: Any, processor: Any, example: Any, prompt: str) -> dict[str, Tensor]:
    image = load_image(example.path)
    inputs = processor(images=image, text=prompt, return_tensors="pt").to(model.device)
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    return dict(inputs)


def _objects(study: Study, example: Any, grid: Sequence[int]) -> np.ndarray | None:
    """Which patches show a drawn object; None unless the image is a scene as it was drawn."""
    if study.profile.images_of != "scenes" or study.profile.json_path:
        return None
    labels = patch_labels(sample_scene(example.image_id - 1))
    return labels.ravel() > 0 if labels.shape == tuple(grid) else None


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The values of each measure, of the images that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row[name] for row in rows if name in row] for name in names}


def summary(values: Sequence[Any]) -> dict[str, Any]:
    """Mean, standard deviation and percentiles over the images, and how many; all but NaN.

    Values of several layers are summarised layer by layer.

    >>> found = summary([1.0, 2.0, 3.0, float("nan")])
    >>> found["mean"], found["sd"], found["n"], found["of"]
    (2.0, 1.0, 3, 4)
    """
    array = np.asarray(values, dtype=float)
    there = array[~np.isnan(array)] if array.ndim == 1 else array
    document = {"n": len(there), "of": len(array)}
    if len(there):
        document |= {"mean": there.mean(0), "sd": there.std(0, ddof=min(1, len(there) - 1))}
        document |= {k: np.percentile(there, q, axis=0) for k, q in PERCENTILES.items()}
    if array.ndim == 1:
        document["values"] = array
    return {name: _plain(value) for name, value in document.items()}


def _plain(value: Any) -> Any:
    """Five digits, and None for NaN, as JSON takes it."""
    if isinstance(value, np.ndarray):
        return [_plain(one) for one in value.tolist()]
    if isinstance(value, float):
        return None if np.isnan(value) else float(f"{value:.5g}")
    return value
