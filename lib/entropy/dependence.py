"""Dependence between two views of the same items, from the entropies of their Gram matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels import backend_for
from .decorators import full_precision
from .entropy import check_order, entropy_of_gram
from .gram import as_gram, checked_gram


def _pair(x: Tensor, y: Tensor, gram_given: bool, check: bool) -> tuple[Tensor, Tensor]:
    kx = as_gram(x, backend_for(x), gram_given=gram_given, check=check)
    ky = as_gram(y, backend_for(y), gram_given=gram_given, check=check)
    if kx.shape[-1] != ky.shape[-1]:
        raise ValueError(
            "x and y must describe the same N items, got shapes "
            f"{tuple(x.shape)} and {tuple(y.shape)}"
        )
    return kx, ky


def _joint(kx: Tensor, ky: Tensor, alpha: float, check: bool) -> Tensor:
    return entropy_of_gram(checked_gram(kx * ky, check=check), alpha)


@full_precision
def joint_entropy(
    x: Tensor, y: Tensor, *, alpha: float = 1.0, gram: bool = False, check: bool = True
) -> Tensor:
    """Joint matrix entropy of x (..., N, D) and y (..., N, E), paired by row, shape (...).

    The entropy of the Hadamard product of the two Gram matrices (arXiv 1211.2459).

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: α not positive, different N, bad tokens.

    >>> x = torch.eye(4)
    >>> print(f"{joint_entropy(x, torch.ones(4, 1)):.4f}")  # a constant adds nothing
    1.3863
    """
    check_order(alpha)
    kx, ky = _pair(x, y, gram, check)
    return _joint(kx, ky, alpha, check)


@full_precision
def mutual_information(
    x: Tensor, y: Tensor, *, alpha: float = 1.0, gram: bool = False, check: bool = True
) -> Tensor:
    """Matrix mutual information H(x) + H(y) - H(x, y), shape (...) (arXiv 1211.2459).

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: α not positive, different N, bad tokens.

    >>> print(f"{mutual_information(torch.eye(4), torch.eye(4)):.4f}")
    1.3863
    """
    check_order(alpha)
    kx, ky = _pair(x, y, gram, check)
    joint = _joint(kx, ky, alpha, check)
    return entropy_of_gram(kx, alpha) + entropy_of_gram(ky, alpha) - joint


@full_precision
def dime(
    x: Tensor,
    y: Tensor,
    permutations: int = 16,
    random_state: int = 0,
    *,
    alpha: float = 1.0,
    gram: bool = False,
    check: bool = True,
) -> Tensor:
    """Difference of matrix-based entropies, shape (...): how much the pairing of x and y matters.

    The joint entropy under random pairing, averaged over `permutations` of y, minus the joint
    entropy under the true pairing (arXiv 2301.08164). It grows with the dependence between x
    (..., N, D) and y (..., N, E) and is zero in expectation without any. The marginal entropies
    cancel, so unlike `mutual_information` it does not grow with an ever narrower kernel.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: permutations < 1, α not positive, different N, bad tokens.

    >>> print(f"{dime(torch.eye(4), torch.ones(4, 1)).abs():.4f}")  # a constant: no dependence
    0.0000
    """
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}")
    check_order(alpha)
    kx, ky = _pair(x, y, gram, check)
    generator = torch.Generator().manual_seed(random_state)
    size = kx.shape[-1]
    random = torch.zeros((), dtype=kx.dtype, device=kx.device)
    for _ in range(permutations):
        order = torch.randperm(size, generator=generator).to(kx.device)
        random = random + _joint(kx, ky[..., order, :][..., order], alpha, check)
    return random / permutations - _joint(kx, ky, alpha, check)
