"""Table 1's scores and the differences between its methods, from `scores.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ... import paths
from ...data import scenes
from ...data.scenes import object_f1
from ...labels import OBJECT_F1, TABLE_1
from ...profiles import load_profile
from ...records import read_records
from ...stored import load_scores
from .format import DASH, interval

__all__ = ["QUALITY", "differences", "losses", "methods", "object_scores", "table"]

QUALITY = ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "SPICE", OBJECT_F1)


def methods(profile: str, *, extra: bool = True) -> dict[str, Mapping[str, Any]]:
    """`{slug: row}` of `scores.json`: Table 1's methods in the paper's order, then this study's."""
    found = load_scores(profile)["methods"]
    first = [slug for name in TABLE_1 for slug, row in found.items() if _is(row, slug, name)]
    rest = [slug for slug in found if slug not in first] if extra else []
    return {slug: found[slug] for slug in (*first, *rest)}


def _is(row: Mapping[str, Any], slug: str, name: str) -> bool:
    """Is this the plain form of a method? A variant's slug says in what it differs."""
    return row["method"] == name and slug.count("-") <= 1


def table(profile: str, *, extra: bool = True) -> pd.DataFrame:
    """Kept share as measured and every metric with its 95 % interval, one row a method.

    `attrs["notes"]` says why columns show dashes. extra: with this study's variants.
    """
    rows, reasons = {}, {}
    for row in methods(profile, extra=extra).values():
        cells = {"Kept (%)": f"{100 * row['kept']['mean']:.1f}"}
        for name in QUALITY:
            if name in row["values"]:
                cells[name] = interval(row["values"][name], row["intervals"].get(name))
        rows[row["label"]] = cells
        reasons |= row["reasons"]
    frame = pd.DataFrame.from_dict(rows, orient="index").fillna(DASH).rename_axis("Method")
    frame.attrs["notes"] = {
        ", ".join(name for name, why in reasons.items() if why == reason): reason
        for reason in dict.fromkeys(reasons.values())
    }
    return frame


def object_scores(profile: str, label: str) -> np.ndarray:
    """(images,) object F1 of the captions of one method, by its label.

    A single NaN where nothing is scored, or the data do not say what an image shows.
    """
    slug = next(slug for slug, row in methods(profile).items() if row["label"] == label)
    shown = _objects(profile)
    captions = {
        record["image_id"]: record["caption"]
        for record in read_records(paths.results_dir(profile) / "captions" / slug)
    }
    if load_profile(profile).random_weights or not captions.keys() <= shown.keys():
        return np.array([np.nan])
    return np.array([object_f1(text, shown[image]).f1 for image, text in captions.items()])


def _objects(profile: str) -> dict[int, list[dict[str, Any]]]:
    """`{image id: objects}` of the data, as far as they name any."""
    settings = load_profile(profile)
    if settings.json_path:
        listing = json.loads(Path(settings.json_path).expanduser().read_text(encoding="utf-8"))
    else:
        listing = {"images": []} if settings.on_coco else scenes.karpathy()
    images = listing["images"]
    return {image["cocoid"]: image["objects"] for image in images if "objects" in image}


def differences(
    profile: str, *, metrics: Sequence[str] = ("BLEU-4", "CIDEr", OBJECT_F1)
) -> pd.DataFrame:
    """Paired bootstrap differences in points: value, 95 % interval, and a star where p < 0.05.

    Empty where nothing was scored, as all that follows from scores.
    """
    scores = load_scores(profile)
    label = {slug: row["label"] for slug, row in scores["methods"].items()}
    rows = {}
    for pair in scores["differences"]:
        cells = {}
        for name in metrics:
            if name in pair["metrics"]:
                value, low, high, p = pair["metrics"][name]
                star = " *" if p < 0.05 else ""
                cells[name] = f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]{star}"
        rows[f"{label[pair['a']]} − {label[pair['b']]}"] = cells
    return pd.DataFrame.from_dict(rows, orient="index").fillna(DASH).rename_axis("Difference")


def losses(profile: str, *, metric: str = "CIDEr") -> pd.DataFrame:
    """Each method minus the unpruned model, in points: value, low, high."""
    scores = load_scores(profile)
    rows = {
        scores["methods"][pair["a"]]["label"]: pair["metrics"][metric][:3]
        for pair in scores["differences"]
        if pair["b"] == "unpruned"
    }
    return 100 * pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"])
