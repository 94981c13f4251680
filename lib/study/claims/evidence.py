"""What is stored of a profile, as the claims ask for it; what is missing is None, not an error."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import paths
from ..evaluation import mean_interval
from ..labels import DIVERGENCE, percent
from ..profiles import load_profile

__all__ = ["Evidence"]

#: measured by commands of their own: a run that has none looks at the reference's
MEASURED = ("bench.json", "benchmark.json")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Evidence:
    """The stored results of a profile; folder: where they lie."""

    profile: str
    folder: Path
    _read: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, profile: str) -> Evidence:
        """That of the place that is looked at, or of the reference where a run has none."""
        here = paths.results_dir(profile)
        there = (here / "scores.json").is_file()
        return cls(profile, here if there else paths.reference(profile).results)

    @functools.cached_property
    def exists(self) -> bool:
        return (self.folder / "scores.json").is_file()

    @functools.cached_property
    def random_weights(self) -> bool:
        return load_profile(self.profile).random_weights

    @property
    def tail(self) -> str:
        """How slugs name Table 1's keep rate."""
        return percent(load_profile(self.profile).keep)

    @property
    def ablation_tail(self) -> str:
        """How slugs name the ablations' keep rate."""
        return percent(load_profile(self.profile).ablation_keep)

    def document(self, name: str) -> Mapping[str, Any]:
        """A summary such as "scores.json"; empty where it is missing."""
        if name not in self._read:
            path = self.folder / name
            if name in MEASURED and not path.is_file():
                path = paths.reference(self.profile).results / name
            there = path.is_file()
            self._read[name] = json.loads(path.read_text(encoding="utf-8")) if there else {}
        return self._read[name]

    # ---- captions and divergence ----------------------------------------------------------------

    def method(self, slug: str) -> Row | None:
        """A row of Table 1 with its scores; None where nothing was scored."""
        row = self.document("scores.json").get("methods", {}).get(slug)
        return None if row is None or self.random_weights else row

    def images(self) -> int:
        """Images of Table 1."""
        return int(self.document("scores.json").get("images", 0))

    def gap(self, family: str, a: str, b: str, metric: str) -> Row | None:
        """A declared comparison of captions, or with `DIVERGENCE` of divergences."""
        if metric != DIVERGENCE:
            found = self.document("scores.json")
            return _pick(found.get("comparisons", {}).get(family, ()), a, b, metric)
        parts = self.document("divergence.json")
        for name in ("table", "ablations", "places"):
            rows = parts.get(name, {}).get("comparisons", {}).get(family, ())
            if (row := _pick(rows, a, b, metric)) is not None:
                return row
        return None

    def divergence(self, part: str, slug: str) -> Row | None:
        """A method of a part of `divergence.json`."""
        return self.document("divergence.json").get(part, {}).get("methods", {}).get(slug)

    # ---- many images ----------------------------------------------------------------------------

    def measure(self, group: str, name: str) -> Row | None:
        """A measure of `population.json` over many images: mean, sd, percentiles, values, n."""
        found = self.document("population.json").get("measures", {}).get(group, {}).get(name)
        return None if found is None or not found.get("n") or self.random_weights else found

    def paired(self, group: str, a: str, b: str) -> tuple[float, float, float] | None:
        """The mean difference a - b of two measures over the images, with its 95 % interval."""
        one, other = self.measure(group, a), self.measure(group, b)
        if one is None or other is None:
            return None
        gaps = np.array(one["values"], dtype=float) - np.array(other["values"], dtype=float)
        return float(gaps.mean()), *mean_interval(gaps)

    # ---- cost -----------------------------------------------------------------------------------

    def cost(self, slug: str) -> Row | None:
        """A row of `efficiency.json` at batch 1."""
        rows = self.document("efficiency.json").get("rows", ())
        return next((row for row in rows if row["slug"] == slug and row["batch"] == 1), None)

    def ratio(self, slug: str, what: str = "end_to_end") -> Row | None:
        """A time over the unpruned model's: median, low, high; None without an interval."""
        row = self.cost(slug) or {}
        found = row.get("ratio", {}).get(what)
        return None if found is None or found["low"] is None else found


def _pick(rows: Any, a: str, b: str, metric: str) -> Row | None:
    return next((r for r in rows if (r["a"], r["b"], r["metric"]) == (a, b, metric)), None)
