"""A run on another machine beside the published results, image by image, kept with them.

A smaller run's scores cannot be compared with those of all images, but what both measured on the
same images can: captions, and the divergence of every method on every image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import paths
from .compare import by_image, compare_run
from .files import write_json
from .records import MANIFEST, method_places

__all__ = ["OTHER_MACHINE", "keep_comparison"]

OTHER_MACHINE = "on_a_cpu.json"


def keep_comparison(profile: str) -> Path:
    """Compare a CPU's run with the reference on the same images and keep what was found.

    - `made`, `images`: as `lib.study.compare.compare_run` has them. `seconds`: the run's, by stage.
    - `captions`: `{folder: {"same", "of"}}`, captions equal with equal counts of kept tokens.
    - `divergence`: `{part: {"methods", "images", "median", "largest", "largest_mean"}}`, relative
      differences of the values of single images, and the largest of a method's mean over them.
      Published values have three digits, so that up to 0.005 is rounding.

    Raises FileNotFoundError without a run, ValueError unless a CPU made it.
    """
    found = compare_run(profile)
    reference, run = paths.reference(profile).results, paths.run(profile).results
    made = found["made"]["run"] or {}
    if made.get("device") != "cpu":
        raise ValueError(
            f"the run of {profile} was made on {made.get('device')!r}, not on a CPU: run 'python "
            f"-m lib reproduce --profile {profile} --device cpu' first"
        )
    captions = {}
    for folder in found["captions"]["folders"]:
        old, new = (by_image(place / folder) for place in (reference, run))
        shared = old.keys() & new.keys()
        same = sum(
            all(old[i][name] == new[i][name] for name in ("caption", "kept")) for i in shared
        )
        if shared:
            captions[folder] = {"same": same, "of": len(shared)}
    study = json.loads((run / "study.json").read_text(encoding="utf-8"))
    document = {
        "profile": profile,
        "made": found["made"],
        "images": found["images"],
        "seconds": study["seconds"],
        "captions": captions,
        "divergence": {
            folder.name: _gaps(reference / "divergence" / folder.name, folder)
            for folder in sorted((run / "divergence").glob("*"))
            if (reference / "divergence" / folder.name / MANIFEST).is_file()
        },
    }
    write_json(reference / OTHER_MACHINE, document)
    return reference / OTHER_MACHINE


def _gaps(reference: Path, run: Path) -> dict[str, Any]:
    """Relative differences where both measured the same method on the same image."""
    old, new = by_image(reference), by_image(run)
    images = sorted(old.keys() & new.keys())
    before, after = (
        _columns(place, rows, images) for place, rows in ((reference, old), (run, new))
    )
    shared = [slug for slug in before if slug in after and before[slug].any()]
    first, second = (np.array([part[slug] for slug in shared]) for part in (before, after))
    gaps = np.abs(second - first) / np.maximum(first, 1e-12)
    means = np.abs(second.mean(1) - first.mean(1)) / first.mean(1)
    return {
        "methods": len(shared),
        "images": len(images),
        "median": float(f"{np.median(gaps):.3g}"),
        "largest": float(f"{gaps.max():.3g}"),
        "largest_mean": float(f"{means.max():.3g}"),
    }


def _columns(
    folder: Path, rows: Mapping[int, Mapping[str, Any]], images: list[int]
) -> dict[str, np.ndarray]:
    """`{slug: (images,)}`."""
    table = np.array([rows[i]["kl"] for i in images], dtype=float)
    return dict(zip(method_places(folder), table.T, strict=True))
