"""What the entropy loses with each token (eq. 3), for all of them from one factorisation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..kernels import PLAIN, Backend, backend_for
from .decorators import full_precision
from .entropy import xlogx
from .gram import as_gram
from .quadrature import blocks, kernel_quadrature, node_count, quadrature, solver_for

METHODS = ("exact", "naive", "first-order", "renyi2")


@full_precision
def leave_one_out(
    tokens: Tensor,
    method: str = "exact",
    *,
    nodes: int | None = None,
    solver: str = "auto",
    gram: bool = False,
    check: bool = True,
) -> Tensor:
    """Leave-one-out scores S_i = H(T) - H(T without t_i) of tokens (..., N, D), shape (..., N).

    Args:
        tokens: tokens, or with `gram` a Gram matrix (..., N, N). Its diagonal is free: a row and
            column of zeros scores zero and changes no other score.
        method: "exact", all N scores from one factorisation and an integral over `nodes` points,
            O(N³ + N² nodes); "naive", one eigen-decomposition per token, O(N⁴), the oracle;
            "first-order", the derivative, equal to diag(H) - ρ_ii H with H the entropy operator;
            "renyi2", the exact scores of the order-2 entropy, O(N²).
        nodes: quadrature points of "exact" (and "first-order" by Cholesky), 40 by default and 24 in
            float32 Cholesky (18 in the kernels). In float64 32 points err by less than 1e-9 in S,
            40 by about 1e-12.
        solver: "eigh" (float64 inside), "cholesky" (in the type of the result; batches on CUDA
            without host synchronisation), or "auto": eigh on a CPU, cholesky elsewhere.
        check: validate the data, which synchronises a GPU.

    A single token scores 0, since H = 0 with it and without. Scores may be negative.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: unknown method or solver, `nodes` outside 4..1024, bad tokens.

    >>> scores = leave_one_out(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    >>> [round(score, 4) for score in scores.tolist()]
    [-0.0566, -0.0566, 0.6365]
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    backend = backend_for(tokens)
    matrix = as_gram(tokens, backend, gram_given=gram, check=check)
    return scores_of_gram(
        matrix, method, nodes=nodes, solver=solver, backend=backend, unit=not gram
    )


def scores_of_gram(
    matrix: Tensor,
    method: str = "exact",
    *,
    nodes: int | None = None,
    solver: str = "auto",
    backend: Backend = PLAIN,
    unit: bool = False,
) -> Tensor:
    """`leave_one_out` of validated Gram matrices (..., N, N); of a diagonal of ones if `unit`.

    >>> [round(score, 4) for score in scores_of_gram(torch.eye(3)).tolist()]  # log 3 - log 2
    [0.4055, 0.4055, 0.4055]
    """
    solver = solver_for(solver, matrix.device)
    size, dtype = matrix.shape[-1], matrix.dtype
    if nodes is not None:
        node_count(nodes, dtype)
    if size == 1:
        return matrix.new_zeros(matrix.shape[:-1])
    if method == "naive":
        return _naive(matrix.double()).to(dtype)
    working = matrix if solver == "cholesky" and method != "renyi2" else matrix.double()
    # S does not depend on the scale of K: a mean diagonal of one suits the quadrature's range.
    c = working.diagonal(dim1=-2, dim2=-1)
    scale = c.mean(-1, keepdim=True)
    if not unit:
        working = working / scale.unsqueeze(-1)
        c = c / scale
    rest = size - c  # the trace without token i
    empty = rest <= size * 1e-6  # nothing but token i: the entropy left is 0
    rest = torch.where(empty, 1, rest)
    if method == "renyi2":
        rows = working.square().sum(-1)
        total = rows.sum(-1, keepdim=True)
        left = torch.where(empty, 1, total - 2 * rows + c.square())
        # 2 log(N / rest) - log(total / left), both near zero for large N
        scores = torch.log1p((left - total) / total) - 2 * torch.log1p(-c / size)
        alone = 2 * math.log(size) - total.log()
        return torch.where(empty, alone.expand_as(scores), scores).to(dtype)
    losses, diagonal = losses_of(working, nodes, solver, backend)
    total = diagonal.sum(-1, keepdim=True)  # F
    if method == "first-order":
        return ((c * total / size - diagonal) / size).to(dtype)
    scores = c * total / (size * rest) - losses / rest - torch.log1p(-c / size)
    alone = math.log(size) - total / size
    return torch.where(empty, alone.expand_as(scores), scores).to(dtype)


def losses_of(
    matrix: Tensor, nodes: int | None, solver: str, backend: Backend = PLAIN
) -> tuple[Tensor, Tensor]:
    """d_i = F - F without i and (K log K)_ii, each (..., N), of a Gram matrix of trace N.

    >>> losses, diagonal = losses_of(torch.eye(3), None, "eigh")  # orthogonal: nothing to lose
    >>> losses.abs().max().item(), diagonal.abs().max().item()
    (0.0, 0.0)
    """
    c = matrix.diagonal(dim1=-2, dim2=-1)
    if solver == "cholesky" and backend:
        t, w = kernel_quadrature(nodes, matrix)
        r = backend.kernels.resolvent_diagonal(matrix, t)
        losses = xlogx(c) + (torch.log1p(r) * w.unsqueeze(-1)).sum(-2)
        shares = r / (c.unsqueeze(-2) + t.unsqueeze(-1))
        return losses, xlogx(c) + (shares * (t * w).unsqueeze(-1)).sum(-2)
    nodes = node_count(nodes, matrix.dtype)
    if solver == "eigh":
        values, vectors = torch.linalg.eigh(matrix)
        values = values.clamp_min(0)
        t, w = quadrature(nodes, matrix.shape[-1], matrix.dtype, matrix.device)
        shares = vectors.square()
        weighted = shares * (c.unsqueeze(-1) - values.unsqueeze(-2)).square()
        r = weighted @ (1 / (values.unsqueeze(-1) + t)) / (c.unsqueeze(-1) + t)
        losses = xlogx(c) + torch.log1p(r) @ w
        diagonal = (shares @ xlogx(values).unsqueeze(-1)).squeeze(-1)
        return losses, diagonal
    losses = xlogx(c)
    diagonal = losses
    for t, w, solved in blocks(matrix, nodes, c):
        shifted = c.unsqueeze(-2) + t.unsqueeze(-1)  # (..., q, N)
        r = solved.square().sum(-2) / shifted
        losses = losses + (torch.log1p(r) * w.unsqueeze(-1)).sum(-2)
        diagonal = diagonal + (r / shifted * (t * w).unsqueeze(-1)).sum(-2)
    return losses, diagonal


def _naive(matrix: Tensor) -> Tensor:
    """The definition: one eigen-decomposition per token, in the type of `matrix`."""

    def entropy(k: Tensor) -> Tensor:
        p = torch.linalg.eigvalsh(k).clamp_min(0)
        total = p.sum(-1, keepdim=True)
        return -xlogx(p / torch.where(total > 0, total, 1)).sum(-1)

    size = matrix.shape[-1]
    index = torch.arange(size, device=matrix.device)
    full = entropy(matrix)
    scores = []
    for i in range(size):
        keep = index[index != i]
        scores.append(full - entropy(matrix[..., keep, :][..., keep]))
    return torch.stack(scores, -1)
