"""The entropy of a set of tokens: von Neumann's, and Rényi's of any order (eq. 2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..kernels import backend_for
from .decorators import full_precision
from .gram import as_gram


def xlogx(x: Tensor) -> Tensor:
    """x log x with 0 log 0 = 0; rounding below zero counts as zero.

    >>> xlogx(torch.tensor([-1e-9, 0.0, 1.0])).tolist()
    [0.0, 0.0, 0.0]
    """
    x = x.clamp_min(0)
    return torch.special.xlogy(x, x)


@full_precision
def matrix_entropy(
    tokens: Tensor, alpha: float = 1.0, *, eps: float = 0.0, gram: bool = False, check: bool = True
) -> Tensor:
    """Matrix entropy of tokens (..., N, D) in nats, shape (...): von Neumann, or Rényi of order α.

    α = 1 is eq. 2, -Σ p log(p + ε); other orders are log(Σ p^α) / (1 - α) (arXiv 1211.2459), up to
    α = inf, -log max p. It lies between 0 (all tokens parallel) and log N (all orthogonal). `eps`
    is the paper's ε, off by default because x log x needs none. With `gram` the first argument is
    a Gram matrix (..., N, N), any diagonal.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: α not positive, ε negative or used with α ≠ 1, bad tokens.

    >>> print(f"{matrix_entropy(torch.eye(4)):.4f}")  # log 4
    1.3863
    >>> print(f"{matrix_entropy(torch.ones(4, 2)).abs():.4f}")
    0.0000
    """
    check_order(alpha, eps)
    matrix = as_gram(tokens, backend_for(tokens), gram_given=gram, check=check)
    return entropy_of_gram(matrix, alpha, eps)


def check_order(alpha: float, eps: float = 0.0) -> None:
    """Refuse an order or an ε that no entropy has.

    Raises:
        ValueError: α not positive, ε negative or used with α ≠ 1.

    >>> check_order(0.0)
    Traceback (most recent call last):
    ValueError: alpha must be positive, got 0.0
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    if not eps >= 0 or (eps > 0 and alpha != 1):
        raise ValueError(f"eps must be >= 0, and 0 unless alpha is 1; got eps={eps}, alpha={alpha}")


def entropy_of_gram(matrix: Tensor, alpha: float, eps: float = 0.0) -> Tensor:
    """`matrix_entropy` of validated Gram matrices (..., N, N), any diagonal.

    >>> print(f"{entropy_of_gram(3 * torch.eye(4), 2.0):.4f}")
    1.3863
    """
    if alpha == 2:  # the sum of the squared eigenvalues is the Frobenius norm
        trace = matrix.diagonal(dim1=-2, dim2=-1).double().sum(-1)
        return (2 * trace.log() - matrix.double().square().sum((-2, -1)).log()).to(matrix.dtype)
    p = torch.linalg.eigvalsh(matrix.double()).clamp_min(0)
    p = p / p.sum(-1, keepdim=True)
    if alpha == 1:
        entropy = -torch.special.xlogy(p, p + eps).sum(-1)
    elif math.isinf(alpha):
        entropy = -p.amax(-1).log()
    else:  # log(Σ p^α) through expm1 and log1p, exact as α approaches 1
        log_p = torch.where(p > 0, p, 1).log()
        excess = torch.expm1((alpha - 1) * log_p)
        entropy = torch.log1p((p * excess).sum(-1)) / (1 - alpha)
    return entropy.to(matrix.dtype)


def effective_rank(tokens: Tensor, *, gram: bool = False, check: bool = True) -> Tensor:
    """exp H, the effective number of independent tokens (Roy & Vetterli 2007), shape (...).

    >>> print(f"{effective_rank(torch.eye(3).repeat(2, 1)):.3f}")
    3.000
    """
    return matrix_entropy(tokens, gram=gram, check=check).exp()
