"""The scores of one method: of every image, what corpus scores are made of, and the scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_atomically

__all__ = ["BLEUS", "METRICS", "Scores"]

BLEUS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")
METRICS = (*BLEUS, "METEOR", "ROUGE-L", "CIDEr", "SPICE")


@dataclass(frozen=True)
class Scores:
    """The scores of one method.

    image_ids: the n images, sorted.
    per_image: `{metric: (n,)}`; BLEU and METEOR of an image are its sentence-level scores.
    statistics: `{"BLEU": (n, 6), "METEOR": (n, 6)}`, what the corpus scores are made of. BLEU: the
        matched 1- to 4-grams, the caption's length, the closest reference's length.
    values: `{metric: corpus score}`, as fractions (CIDEr: about 1); None where unavailable.
    intervals: `{metric: (low, high)}`, 95 % percentile bootstrap over images; None likewise.
    reasons: why a metric is unavailable, with the remedy.
    """

    image_ids: np.ndarray
    per_image: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]
    values: dict[str, float | None]
    intervals: dict[str, tuple[float, float] | None]
    reasons: dict[str, str] = field(default_factory=dict)
    n_bootstrap: int = 1000
    random_state: int = 0

    @classmethod
    def of_means(cls, image_ids: Sequence[int], per_image: Mapping[str, Sequence[float]]) -> Scores:
        """Scores that are means over images, such as a divergence; without intervals.

        Raises ValueError unless each metric has one value an image.
        """
        ids = np.asarray(image_ids)
        arrays = {name: np.asarray(values, dtype=float) for name, values in per_image.items()}
        for name, values in arrays.items():
            if values.shape != (len(ids),) or not len(ids):
                raise ValueError(f"{name} needs one value for each of {len(ids)} images")
        order = np.argsort(ids, kind="stable")
        return cls(
            image_ids=ids[order],
            per_image={name: values[order] for name, values in arrays.items()},
            statistics={},
            values={name: float(values.mean()) for name, values in arrays.items()},
            intervals=dict.fromkeys(arrays),
        )

    @property
    def metrics(self) -> list[str]:
        """The metrics that have a value."""
        return [name for name, value in self.values.items() if value is not None]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, without loss: `Scores.from_dict` gives the same scores back."""
        return {
            "image_ids": self.image_ids.tolist(),
            "per_image": {name: x.tolist() for name, x in self.per_image.items()},
            "statistics": {name: x.tolist() for name, x in self.statistics.items()},
            "values": dict(self.values),
            "intervals": {n: None if i is None else list(i) for n, i in self.intervals.items()},
            "reasons": dict(self.reasons),
            "n_bootstrap": self.n_bootstrap,
            "random_state": self.random_state,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Scores:
        """The inverse of `to_dict`. Raises ValueError for anything else."""
        try:
            return cls(
                image_ids=np.asarray(document["image_ids"]),
                per_image={n: np.asarray(x, float) for n, x in document["per_image"].items()},
                statistics={n: np.asarray(x, float) for n, x in document["statistics"].items()},
                values=dict(document["values"]),
                intervals={
                    n: None if i is None else (i[0], i[1]) for n, i in document["intervals"].items()
                },
                reasons=dict(document["reasons"]),
                n_bootstrap=document["n_bootstrap"],
                random_state=document["random_state"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a document of Scores.to_dict: {error!r}") from error

    def save(self, path: str | Path) -> None:
        """Write as JSON, atomically."""
        write_atomically(path, json.dumps(self.to_dict(), separators=(",", ":")) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Scores:
        """Read what `save` wrote."""
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
