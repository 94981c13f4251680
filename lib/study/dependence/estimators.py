"""Estimates of the dependence of two variables from paired samples, in nats.

Binning and MINE estimate Shannon's mutual information. The matrix-based quantities are functionals
of Gram matrices: they grow with the dependence, but their scale depends on the kernel.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from ...entropy import dime, mutual_information


def binned(x: Tensor, y: Tensor, *, bins: int = 8) -> float:
    """The plug-in estimate over equally filled bins of every coordinate.

    x `(n, d)`, y `(n, e)`: each coordinate is cut at its quantiles, cells are counted, and
    Shannon's formula is applied. With d + e coordinates there are bins^(d + e) cells: soon nearly
    every sample has one for itself, and the estimate tends to log n whatever the dependence.

    >>> x = torch.arange(64.0).unsqueeze(1)
    >>> round(binned(x, x), 4) == round(math.log(8), 4)
    True
    """
    cells = [_cells(side.double().numpy(), bins) for side in (x, y)]
    joint = np.concatenate(cells, axis=1)
    return _entropy(cells[0]) + _entropy(cells[1]) - _entropy(joint)


def _cells(values: np.ndarray, bins: int) -> np.ndarray:
    """The bin of every coordinate of every sample."""
    ranks = values.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    return ranks * bins // len(values)


def _entropy(cells: np.ndarray) -> float:
    _, counts = np.unique(cells, axis=0, return_counts=True)
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())


class Critic(nn.Module):
    """The statistics network of MINE: one number for a pair `(x, y)`."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, 1),
        )  # fmt: skip

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layers(torch.cat([x, y], 1)).squeeze(1)


def mine(
    x: Tensor, y: Tensor, *, steps: int = 400, hidden: int = 64, batch: int = 256,
    learning_rate: float = 2e-3, held_out: float = 0.3, random_state: int = 0,
) -> float:  # fmt: skip
    """The Donsker-Varadhan bound of a small network, trained here (arXiv 1801.04062).

    E[T(x, y)] - log E[exp T(x, y')] with y' paired at random. The network sees a part of the pairs;
    the bound is evaluated on the others, so it is a lower bound up to the noise of that part: with
    few samples the network learns them by heart and the held-out value turns negative.

    x `(n, d)`, y `(n, e)`; takes seconds for a thousand samples.

    Raises `ValueError` for fewer than ten pairs.
    """
    if len(x) != len(y) or len(x) < 10:
        raise ValueError(f"x and y need at least 10 pairs, got {len(x)} and {len(y)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state)
        order = torch.randperm(len(x))
        cut = int(len(x) * (1 - held_out))
        x, y = ((side - side.mean(0)) / side.std(0).clamp_min(1e-12) for side in (x, y))
        x, y = x.float()[order], y.float()[order]
        critic = Critic(x.shape[1] + y.shape[1], hidden)
        optimizer = torch.optim.Adam(critic.parameters(), lr=learning_rate, fused=True)
        for _ in range(steps):
            pick = torch.randint(cut, (min(batch, cut),))
            both = torch.cat([pick, torch.randint(cut, (len(pick),))])
            bound = _donsker_varadhan(*critic(x[pick].repeat(2, 1), y[both]).chunk(2))
            optimizer.zero_grad()
            (-bound).backward()
            optimizer.step()
        with torch.no_grad():
            rest = torch.arange(cut, len(x))
            shuffled = torch.cat([rest[torch.randperm(len(rest))] for _ in range(16)])
            repeated = rest.repeat(16)
            paired = critic(x[rest], y[rest])
            bound = _donsker_varadhan(paired, critic(x[repeated], y[shuffled]))
    return float(bound)


def _donsker_varadhan(paired: Tensor, apart: Tensor) -> Tensor:
    return paired.mean() - (apart.logsumexp(0) - math.log(len(apart)))


def gaussian_gram(x: Tensor) -> Tensor:
    """Gram matrix `(n, n)` of a Gaussian kernel whose width is the median distance of the samples.

    >>> gaussian_gram(torch.zeros(3, 2)).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    squared = torch.cdist(x.double(), x.double()).square()
    off = squared[~torch.eye(len(x), dtype=torch.bool)]
    width = off.median().clamp_min(1e-12) if len(off) else squared.new_ones(())
    return torch.exp(-squared / (2 * width))


def matrix_based(
    x: Tensor, y: Tensor, *, permutations: int = 8, random_state: int = 0
) -> dict[str, float]:
    """Matrix-based mutual information (arXiv 1211.2459) and DiME (arXiv 2301.08164)."""
    kx, ky = gaussian_gram(x), gaussian_gram(y)
    return {
        "matrix MI": float(mutual_information(kx, ky, gram=True)),
        "DiME": float(dime(kx, ky, permutations, random_state, gram=True)),
    }
