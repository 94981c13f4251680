"""The entropy operator, the matrix that the rollout merges (eq. 6)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..kernels import PLAIN, Backend, backend_for
from .decorators import full_precision
from .entropy import xlogx
from .gram import as_gram
from .quadrature import blocks, fitted, kernel_quadrature, node_count, solver_for


@full_precision
def entropy_operator(
    tokens: Tensor,
    *,
    gram: bool = False,
    nodes: int | None = None,
    solver: str = "auto",
    check: bool = True,
) -> Tensor:
    """The entropy operator H = -ρ log ρ, ρ = K / tr K, shape (..., N, N).

    It is what the rollout of eq. 6 merges: symmetric, positive semi-definite, with trace equal to
    the matrix entropy. diag(H) - ρ_ii tr H is the first-order leave-one-out score. "cholesky"
    integrates the resolvent instead of diagonalising; `solver`, `nodes` and `check` are those of
    `leave_one_out`.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: unknown solver, `nodes` outside 4..1024, bad tokens.

    >>> operator = entropy_operator(torch.eye(4))
    >>> print(f"{operator.trace():.4f}", operator.shape)  # log 4
    1.3863 torch.Size([4, 4])
    """
    backend = backend_for(tokens)
    matrix = as_gram(tokens, backend, gram_given=gram, check=check)
    return operator_of_gram(matrix, nodes=nodes, solver=solver, backend=backend)


def operator_of_gram(
    matrix: Tensor, *, nodes: int | None = None, solver: str = "auto", backend: Backend = PLAIN
) -> Tensor:
    """`entropy_operator` of validated Gram matrices (..., N, N), any diagonal.

    >>> [round(entry, 4) for entry in operator_of_gram(torch.eye(2)).diagonal().tolist()]
    [0.3466, 0.3466]
    """
    solver = solver_for(solver, matrix.device)
    size, dtype = matrix.shape[-1], matrix.dtype
    chosen = node_count(nodes, dtype)
    if solver == "eigh":
        values, vectors = torch.linalg.eigh(matrix.double())
        trace = matrix.diagonal(dim1=-2, dim2=-1).double().sum(-1, keepdim=True)
        scaled = vectors * -xlogx(values / trace).unsqueeze(-2)
        operator = scaled.to(dtype) @ vectors.mT.to(dtype)
        return (operator + operator.mT).div_(2)
    mean = matrix.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    # K log K = (K - I) + ∫ t / (1 + t)² (K - I)² (K + t)⁻¹ dt at trace N; then back to trace 1.
    scaled = matrix / mean
    if backend:
        if nodes is None:
            t, weights = fitted(size, scaled.dtype, scaled.device)
        else:
            t, w = kernel_quadrature(nodes, scaled)
            weights = t * w / (1 + t).square()
        return backend.kernels.entropy_operator(scaled, t, weights)
    k_log_k = scaled.clone()
    k_log_k.diagonal(dim1=-2, dim2=-1).sub_(1)
    for t, w, solved in blocks(scaled, chosen, torch.ones_like(scaled[..., 0])):
        tall = solved * (t.sqrt() / (1 + t))[:, None, None]
        weighted = tall * w[:, None, None]  # a tail's correction can be negative
        k_log_k = k_log_k + tall.flatten(-3, -2).mT @ weighted.flatten(-3, -2)
    operator = (scaled * math.log(size) - k_log_k) / size
    return (operator + operator.mT) / 2
