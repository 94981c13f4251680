"""Slow float64 references, written from the definitions alone, and the token sets of the tests."""

from __future__ import annotations

import itertools
import math

import torch
from hypothesis import strategies as st
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


def kmeans(matrix: Tensor, n_clusters: int, uniforms: Tensor, n_iter: int = 20) -> list[int]:
    """Labels of one Gram matrix: greedy k-means++ and Lloyd token by token, with no early stop.

    `uniforms` (M, trials). Every fifth iteration, the first and the last fill empty clusters.
    """
    size = matrix.shape[0]
    norms = matrix.diagonal()
    unit = norms.mean().item() / 2**16

    def whole(distance: Tensor, steps: int = 1) -> list[int]:
        return [int(value) for value in (distance / unit * steps).round().clamp_min(0).tolist()]

    pairs = [whole(norms[i] + norms - 2 * matrix[i]) for i in range(size)]
    # what is added up is rounded on a finer grid, but copies have no distance
    finer = [whole(norms[i] + norms - 2 * matrix[i], 2**16) for i in range(size)]
    finer = [[value if value >= 2**15 else 0 for value in row] for row in finer]
    centres = [min(int(uniforms[0, 0].item() * size), size - 1)]
    closest = finer[centres[0]]
    for row in uniforms[1:].tolist():
        cumulative = list(itertools.accumulate(closest))
        options = []
        for uniform in row:
            target = uniform * cumulative[-1]
            token = min(sum(value <= target for value in cumulative), size - 1)
            options.append((token, [min(a, b) for a, b in zip(finer[token], closest)]))
        token, closest = min(options, key=lambda option: sum(option[1]))  # the first of equals
        centres.append(token)
    labels = [min(range(n_clusters), key=lambda m: pairs[centres[m]][i]) for i in range(size)]
    for iteration in range(n_iter):
        members = [[i for i in range(size) if labels[i] == m] for m in range(n_clusters)]
        far = 2**62
        distance = []
        for inside in members:
            if not inside:
                distance.append([far] * size)
                continue
            length = matrix[inside][:, inside].mean()
            distance.append(whole(norms - 2 * matrix[:, inside].mean(-1) + length))
        labels = [min(range(n_clusters), key=lambda m: distance[m][i]) for i in range(size)]
        if iteration % 5 == 0 or iteration == n_iter - 1:
            own = [distance[labels[i]][i] for i in range(size)]
            nearest = set()
            for m in set(labels):
                inside = [i for i in range(size) if labels[i] == m]
                nearest.add(min(inside, key=lambda i: own[i]))
            free = [i for i in range(size) if i not in nearest and own[i] > 0]
            free.sort(key=lambda i: -own[i])
            empty = [m for m in range(n_clusters) if m not in set(labels)]
            for m, i in zip(empty, free):
                labels[i] = m
    return labels


@st.composite
def token_sets(draw, least=2, most=24):
    """Random tokens of every character, including duplicates and rank deficiency."""
    size = draw(st.integers(least, most))
    return make_tokens(draw(st.sampled_from(KINDS)), size, draw(st.integers(0, 10_000)))
