"""Slow float64 references, written from the definitions alone, and the token sets of the tests."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

KINDS = ("gaussian", "clustered", "smooth", "duplicated", "rank-deficient")


def make_tokens(kind: str, size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """(size, D) tokens with the character named by `kind`."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    if kind == "gaussian":
        tokens = normal(size, 64)
    elif kind == "clustered":
        member = torch.randint(0, 8, (size,), generator=generator)
        tokens = normal(8, 64)[member] + 0.2 * normal(size, 64)
    elif kind == "smooth":
        position = torch.linspace(0, 3, size, dtype=torch.float64).unsqueeze(-1)
        frequency = torch.arange(1, 9, dtype=torch.float64)
        tokens = torch.cat([(position * frequency).sin(), (position * frequency).cos()], -1)
    elif kind == "duplicated":
        tokens = normal(-(-size // 2), 64).repeat(2, 1)[:size]
    else:
        tokens = normal(size, 5)
    return tokens.to(dtype)


def gram(tokens: Tensor) -> Tensor:
    unit = tokens.double() / tokens.double().norm(dim=-1, keepdim=True)
    return unit @ unit.T


def trace_form(matrix: Tensor) -> float:
    """F = Σ λ log λ of one Gram matrix."""
    return sum(v * math.log(v) for v in torch.linalg.eigvalsh(matrix).tolist() if v > 0)


def entropy(matrix: Tensor) -> float:
    """-Σ p log p of one Gram matrix; zero for an empty one."""
    if matrix.shape[0] == 0 or matrix.trace() <= 0:
        return 0.0
    return -trace_form(matrix / matrix.trace())


def without(matrix: Tensor, i: int) -> Tensor:
    keep = [j for j in range(matrix.shape[0]) if j != i]
    return matrix[keep][:, keep]


def leave_one_out(matrix: Tensor) -> Tensor:
    full = entropy(matrix)
    scores = [full - entropy(without(matrix, i)) for i in range(matrix.shape[0])]
    return torch.tensor(scores, dtype=torch.float64)


def losses(matrix: Tensor) -> Tensor:
    """d_i = F - F without i."""
    full = trace_form(matrix)
    rows = [full - trace_form(without(matrix, i)) for i in range(matrix.shape[0])]
    return torch.tensor(rows, dtype=torch.float64)


def operator(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix / matrix.trace())
    values = values.clamp_min(0)
    return vectors @ torch.diag(-torch.special.xlogy(values, values)) @ vectors.T


def best_subset(matrix: Tensor, k: int) -> float:
    """The largest entropy of any k tokens."""
    size = matrix.shape[0]
    subsets = itertools.combinations(range(size), k)
    return max(entropy(matrix[list(s)][:, list(s)]) for s in subsets)


def spearman(a: Tensor, b: Tensor) -> float:
    ranks = torch.stack([a.argsort().argsort(), b.argsort().argsort()]).double()
    return torch.corrcoef(ranks)[0, 1].item()
