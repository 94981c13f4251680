"""Side questions about the photograph model, each one measurement kept beside its weights.

    python -m lib trials candidates    # data/photos/candidates.json.xz

- `candidates`: every rule of `lib.study.grid.candidates` on the dev photographs, at the profile's
  budgets.
- `checkpoints`: the rules of Table 1 under several weights, on test photographs: does the order of
  methods depend on how the model was trained?
- `budgets`: four rules at ten budgets on dev and test photographs, and each image's entropy: does
  a budget that follows the image beat a fixed one (`two_levels`)?
- `clusters`: Algorithm 1 at four budgets under many M and k_c on dev and test photographs, and what
  rules for each image go by (`lib.study.clusters`).

All before language layer 2, along two human captions of each photograph.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..entropy import matrix_entropy
from ..geometry import feature_layer, kept_count, patches
from ..pruning import create
from . import paths
from .captioning import load_image, own_gpu
from .clusters import measure_clusters
from .divergence import divergence
from .examples import examples
from .files import write_atomically
from .grid import Run, candidates
from .methods import FASTV_LAYER, placed
from .models import photos
from .profiles import Profile, load_profile
from .records import environment, packed

__all__ = ["TRIALS", "at", "criteria", "load_trial", "measure", "two_levels"]

TRIALS = ("candidates", "checkpoints", "budgets", "clusters")
#: tokens that are kept of 256 in "budgets"
COUNTS = (8, 16, 24, 32, 48, 64, 96, 128, 160, 192)
RIVALS = ("fastv", "random", "entropy")
#: what trials call a criterion where that is not its name: "entropy" is a candidate of its own
SLUGS = {"entropy": "entropy-prune"}


def criteria(*names: str) -> dict[str, Run]:
    """`{slug: (name, options)}` of Table 1's criteria at FastV's layer, these or all.

    >>> criteria("entropy", "fastv")
    {'entropy-prune': ('entropy', {'layer': 2}), 'fastv': ('fastv', {})}
    """
    found = placed(FASTV_LAYER)
    return {SLUGS.get(name, name): (name, found[name]) for name in names or found}


def at(rules: Mapping[str, Run], keeps: Sequence[float], layer: int = FASTV_LAYER) -> dict:
    """`{slug: (name, options)}` of rules before one layer at several budgets.

    >>> at({"random": ("random", {})}, (0.125,))
    {'random-12.5': ('random', {'keep': 0.125, 'layer': 2})}
    """
    return {
        f"{slug}-{100 * keep:g}": (name, {**options, "keep": keep, "layer": layer})
        for slug, (name, options) in rules.items()
        for keep in keeps
    }


def two_levels(entropy: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """What each image gives if the half with more entropy keeps more tokens than the other half.

    Both halves have as many images, so the average budget is the mean of the two.

    entropy, low, high : (n,) entropies, and a measure at the lower and the higher budget.

    >>> two_levels(np.array([1.0, 3.0]), np.array([10, 20]), np.array([1, 2])).tolist()
    [10, 2]
    """
    order = np.argsort(entropy, kind="stable")
    found = low.copy()
    found[order[len(order) // 2 :]] = high[order[len(order) // 2 :]]
    return found


def load_trial(what: str) -> dict[str, Any]:
    """A committed trial.

    Raises FileNotFoundError where there is none.
    """
    return json.loads(lzma.decompress(_place(what).read_bytes()))


def measure(
    what: str,
    *,
    limit: int | None = None,
    weights: Sequence[Path] = (),
    device: str | None = None,
    batch_size: int = 50,
) -> Path:
    """Measure one of `TRIALS` and keep it; returns the file.

    Parameters
    ----------
    limit : photographs of each split, a seeded choice; all by default.
    weights : of "checkpoints", adapters in place of the published ones.
    batch_size : changes the result by rounding only.

    Raises
    ------
    ValueError : an unknown trial.
    """
    if what not in TRIALS:
        raise ValueError(f"unknown trial {what!r}: choose from {', '.join(TRIALS)}")
    device = device or own_gpu() or "cpu"
    own = [photos.photos_dir() / f"{name}.safetensors" for name in photos.NAMES]

    def bench(path: Path) -> _Bench:
        return _Bench(path, device, batch_size)

    made: dict[str, Any]
    budgets = load_profile("photos").budgets
    if what == "candidates":
        made = bench(own[0]).split("val", limit, at({**candidates(), **criteria(*RIVALS)}, budgets))
    elif what == "checkpoints":
        rules = at(criteria(), budgets)
        made = {path.stem: bench(path).split("test", limit, rules) for path in weights or own}
    elif what == "clusters":
        one = bench(own[0])
        made = {s: one.clusters(s, limit, budgets) for s in ("val", "test")}
    else:
        rules = at(criteria(*RIVALS, "selection"), [n / 256 for n in COUNTS])
        one = bench(own[0])
        made = {s: one.split(s, limit, rules, entropy=True) for s in ("val", "test")}
    found = {"environment": environment(device=device), "layer": FASTV_LAYER, what: made}
    text = json.dumps(found, separators=(",", ":"))
    write_atomically(_place(what), packed(text))
    return _place(what)


class _Bench:
    """One set of weights on a device."""

    def __init__(self, weights: Path, device: str, batch_size: int) -> None:
        tower = photos.photos_dir() / "tower.safetensors"
        model, self.processor = photos.assemble(photos.language_file(print), tower, weights)
        self.model, self.batch_size = model.to(device), batch_size

    def split(
        self, split: str, limit: int | None, rules: Mapping[str, Run], *, entropy: bool = False
    ) -> dict[str, Any]:
        """Divergences of every rule on photographs of a split, and the images' entropies."""
        profile, images = self._photographs(split, limit)
        pruners = {slug: create(name, **options) for slug, (name, options) in rules.items()}
        rows = divergence(
            self.model, self.processor, images, pruners, prompt=profile.prompt,
            references=2, batch_size=self.batch_size,
        )  # fmt: skip
        found: dict[str, Any] = {"image_ids": [int(image.image_id) for image in images]}
        if entropy:
            found["entropy"] = [self._entropy(image.path) for image in images]
        kl = {slug: [float(f"{row['kl']:.3g}") for row in each] for slug, each in rows.items()}
        return found | {"kl": kl}

    def clusters(self, split: str, limit: int | None, keeps: Sequence[float]) -> dict[str, Any]:
        """`measure_clusters` at several budgets on photographs of a split."""
        profile, images = self._photographs(split, limit)
        counts = [kept_count(keep, patches(self.model.config)) for keep in keeps]
        return measure_clusters(
            self.model, self.processor, images, counts,
            prompt=profile.prompt, batch_size=self.batch_size,
        )  # fmt: skip

    @staticmethod
    def _photographs(split: str, limit: int | None) -> tuple[Profile, list[Any]]:
        profile = replace(load_profile("photos"), split=split)
        return profile, examples(profile, limit=limit, progress=False)

    @torch.inference_mode()
    def _entropy(self, path: Path) -> float:
        """Matrix entropy in nats of the tower's tokens that the language model is given."""
        pixels = self.processor.image_processor([load_image(path)], return_tensors="pt")
        states = self.model.model.vision_tower(
            pixels["pixel_values"].to(self.model.device), output_hidden_states=True
        ).hidden_states[feature_layer(self.model.config)]
        return float(f"{float(matrix_entropy(states[0, 1:].double())):.6g}")


def _place(what: str) -> Path:
    return paths.data_dir() / "photos" / f"{what}.json.xz"
