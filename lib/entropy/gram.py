"""Unit tokens and their Gram matrix (eq. 1), with the checks that all input goes through."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels import Backend, backend_for
from .decorators import full_precision


def require_tokens(tokens: Tensor) -> None:
    """Raise unless these are tokens by type and shape; the values are not looked at.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: fewer than two dimensions, N = 0, D = 0.

    >>> require_tokens(torch.ones(3))
    Traceback (most recent call last):
    ValueError: tokens must have shape (..., N, D) with N, D >= 1, got (3,)
    """
    if not isinstance(tokens, Tensor) or not tokens.is_floating_point():
        kind = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(f"tokens must be a floating-point tensor, got {kind}")
    if tokens.ndim < 2 or 0 in tokens.shape[-2:]:
        raise ValueError(
            f"tokens must have shape (..., N, D) with N, D >= 1, got {tuple(tokens.shape)}"
        )


def unit_tokens(tokens: Tensor, *, check: bool = True) -> Tensor:
    """Tokens (..., N, D) of any floating type as unit rows, float32 (float64 for float64).

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: fewer than two dimensions, N = 0, D = 0; with `check`, NaN, infinite or zero
            tokens.

    >>> unit_tokens(torch.tensor([[3.0, 4.0], [0.0, 2.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 1.0]]
    """
    require_tokens(tokens)
    tokens = tokens if tokens.dtype == torch.float64 else tokens.float()
    if tokens.device.type != "cpu":  # looking at the norms would make the device wait
        return _careful_unit(tokens, check)
    norm = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True)
    reach = 1e12 if tokens.dtype == torch.float32 else 1e140
    safe = (norm > 1 / reach) & (norm < reach)
    if bool(safe.all()):
        return tokens / norm
    return torch.where(safe, tokens / torch.where(safe, norm, 1), _careful_unit(tokens, check))


def _careful_unit(tokens: Tensor, check: bool) -> Tensor:
    """Unit rows of tokens of any size, with no look at the data but for the checks."""
    # Dividing by the largest entry first keeps the squares from over- or underflowing.
    largest = tokens.abs().amax(-1, keepdim=True)
    if check:
        require(torch.isfinite(largest), "tokens must be finite, got", tokens, largest)
        require(largest > 0, "tokens must not be zero: a zero token has no direction; got", tokens)
    tiny = torch.finfo(tokens.dtype).tiny
    tokens = tokens / largest.clamp_min(tiny)
    return tokens / torch.linalg.vector_norm(tokens, dim=-1, keepdim=True).clamp_min(tiny)


def require(good: Tensor, message: str, source: Tensor, values: Tensor | None = None) -> None:
    """Raise a ValueError that names the first offending row unless all of `good` is true.

    >>> rows = torch.tensor([[1.0], [-2.0]])
    >>> require(rows[:, 0] > 0, "rows must be positive, got", rows, rows)
    Traceback (most recent call last):
    ValueError: rows must be positive, got -2.0 at index [1] of shape (2, 1)
    """
    if not bool(good.all()):
        where = (~good).nonzero()[0].tolist()[: source.ndim - 1]
        value = "" if values is None else f"{values[tuple(where)].flatten()[0].item()} "
        raise ValueError(f"{message} {value}at index {where} of shape {tuple(source.shape)}")


def checked_gram(matrix: Tensor, *, check: bool) -> Tensor:
    """A given Gram matrix (..., N, N) in the type of the results, after validation.

    Exactly symmetric: of what is not quite, the symmetric part.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: not square; with `check`, not finite, not symmetric, a negative diagonal or no
            trace.

    >>> checked_gram(torch.eye(2, dtype=torch.float16), check=True).dtype
    torch.float32
    >>> checked_gram(torch.tensor([[1, 0.5], [0.5 + 2**-13, 1]]), check=True)[0, 1].item()
    0.50006103515625
    """
    if not isinstance(matrix, Tensor) or not matrix.is_floating_point():
        kind = matrix.dtype if isinstance(matrix, Tensor) else type(matrix).__name__
        raise TypeError(f"a Gram matrix must be a floating-point tensor, got {kind}")
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2] or matrix.shape[-1] == 0:
        raise ValueError(
            f"a Gram matrix must have shape (..., N, N) with N >= 1, got {tuple(matrix.shape)}"
        )
    matrix = matrix if matrix.dtype == torch.float64 else matrix.float()
    if check:
        largest = matrix.abs().amax(-1)
        require(torch.isfinite(largest), "a Gram matrix must be finite, got", matrix, largest)
        diagonal = matrix.diagonal(dim1=-2, dim2=-1)
        require(diagonal >= 0, "a Gram diagonal must not be negative, got", matrix, diagonal)
        trace = diagonal.sum(-1, keepdim=True)
        require(trace > 0, "a Gram matrix needs a positive trace, got", matrix, trace)
        skew = (matrix - matrix.mT).abs().amax(-1)
        message = "a Gram matrix must be symmetric, got an asymmetry of"
        require(skew <= 1e-4 * trace, message, matrix, skew)
    return matrix / 2 + matrix.mT / 2


def as_gram(
    tokens: Tensor, backend: Backend, *, gram_given: bool, check: bool, exact: bool = False
) -> Tensor:
    """The Gram matrix (..., N, N) of tokens, or the given one after validation.

    With `exact` in float64 from the start, whatever the type of the tokens.

    >>> as_gram(torch.eye(2), Backend(), gram_given=False, check=True).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if exact and isinstance(tokens, Tensor) and tokens.is_floating_point():
        tokens = tokens.double()
    if gram_given:
        return checked_gram(tokens, check=check)
    return gram_of(tokens, backend, check=check)


def gram_of(tokens: Tensor, backend: Backend, *, check: bool) -> Tensor:
    """`gram` by a backend already chosen.

    >>> gram_of(torch.tensor([[2.0, 0.0], [0.0, 3.0]]), Backend(), check=True).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if backend:
        if check:
            unit_tokens(tokens)
        return backend.kernels.gram(tokens)
    return unit_gram(unit_tokens(tokens, check=check))


def unit_gram(rows: Tensor) -> Tensor:
    """The Gram matrix (..., N, N) of unit rows (..., N, D), with a diagonal of exactly one.

    >>> unit_gram(torch.tensor([[0.6, 0.8], [0.8, 0.6]])).diagonal().tolist()
    [1.0, 1.0]
    """
    product = inner_products(rows)
    product.diagonal(dim1=-2, dim2=-1).fill_(1)
    return product


def inner_products(rows: Tensor) -> Tensor:
    """Inner products (..., N, N) of rows (..., N, D), symmetric to the last bit.

    >>> inner_products(torch.tensor([[2.0, 0.0], [1.0, 1.0]])).tolist()
    [[4.0, 2.0], [2.0, 2.0]]
    """
    if rows.dtype == torch.float64 and rows.shape[-2] >= 128 and not rows.requires_grad:
        return _by_blocks(rows)
    product = rows @ rows.mT
    return (product + product.mT).div_(2)


def _by_blocks(rows: Tensor, blocks: int = 4) -> Tensor:
    """`inner_products` of the lower triangle, mirrored: float64 products are what they cost."""
    size = rows.shape[-2]
    step = -(-size // blocks)
    product = rows.new_empty(*rows.shape[:-1], size)
    for start in range(0, size, step):
        stop = min(start + step, size)
        part = rows[..., start:stop, :] @ rows[..., :stop, :].mT
        own = part[..., start:]
        own.copy_((own + own.mT).div_(2))
        product[..., start:stop, :stop] = part
        product[..., :stop, start:stop] = part.mT
    return product


@full_precision
def gram(tokens: Tensor, *, check: bool = True) -> Tensor:
    """Gram matrix K_ij = t_i · t_j / |t_i||t_j| of tokens (..., N, D), shape (..., N, N) (eq. 1).

    Exactly symmetric, with a diagonal of exactly one. Raises what `unit_tokens` raises.

    >>> gram(torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 0.0]])).tolist()
    [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """
    return gram_of(tokens, backend_for(tokens), check=check)
