"""Pairs of variables whose mutual information is known, and what every estimator makes of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .estimators import binned, matrix_based, mine


@dataclass(frozen=True)
class Gaussians:
    """`samples` pairs of `dimensions` numbers, every pair of coordinates correlated alike."""

    samples: int
    dimensions: int
    correlation: float

    @classmethod
    def of_information(cls, nats: float, *, samples: int, dimensions: int) -> Gaussians:
        """The pairs whose mutual information is `nats`, spread evenly over the coordinates.

        >>> round(Gaussians.of_information(1.0, samples=50, dimensions=3).information, 6)
        1.0
        """
        return cls(samples, dimensions, math.sqrt(1 - math.exp(-2 * nats / dimensions)))

    @property
    def information(self) -> float:
        """The mutual information in nats, -d/2 log(1 - rho²).

        >>> round(Gaussians(100, 2, 0.5).information, 4)
        0.2877
        """
        return 0.5 * self.dimensions * math.log(1 / (1 - self.correlation**2))


def gaussian_pair(case: Gaussians, *, random_state: int = 0) -> tuple[Tensor, Tensor]:
    """Draw x and y, each `(samples, dimensions)` with standard normal coordinates.

    Raises `ValueError` for a correlation outside (-1, 1) or no samples.

    >>> x, y = gaussian_pair(Gaussians(5, 2, 0.5))
    >>> x.shape == y.shape == (5, 2)
    True
    """
    if not -1 < case.correlation < 1:
        raise ValueError(f"correlation must be between -1 and 1, got {case.correlation}")
    if case.samples < 1 or case.dimensions < 1:
        raise ValueError(f"samples and dimensions must be at least 1, got {case}")
    generator = torch.Generator().manual_seed(random_state)
    shape = (2, case.samples, case.dimensions)
    x, noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    return x, case.correlation * x + math.sqrt(1 - case.correlation**2) * noise


def sweep(cases: Iterable[Gaussians], *, seeds: Sequence[int] = (0, 1, 2)) -> list[dict[str, Any]]:
    """Every estimator on every case and seed: rows with the truth beside the estimate, in nats."""
    rows = []
    for case in cases:
        for seed in seeds:
            x, y = gaussian_pair(case, random_state=seed)
            found = {
                "binning": binned(x, y),
                "MINE": mine(x, y, random_state=seed),
                **matrix_based(x, y, random_state=seed),
            }
            rows += [
                {
                    "samples": case.samples,
                    "dimensions": case.dimensions,
                    "correlation": case.correlation,
                    "truth": case.information,
                    "estimator": name,
                    "seed": seed,
                    "value": value,
                }
                for name, value in found.items()
            ]
    return rows
