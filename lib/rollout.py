"""Merge what several layers say about the same items into one (the paper's eq. 6, Algorithm 4)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .entropy import full_precision
from .kernels import backend_for

VARIANTS = ("literal", "scaled", "scores")
#: items up to which a kernel saves launches; what it does for a row grows with their number squared
FEW = 576


@full_precision
def attention_rollout(attentions: Tensor | Iterable[Tensor]) -> Tensor:
    """Rollout of attention, (..., N, N): how much of each token reaches each other one.

    The product of ½ A + ½ I over layers, later ones from the left, where A is a layer's attention
    (..., N, N) averaged over heads and the residual connection counts half; rows sum to one
    (Abnar & Zuidema 2020, arXiv 2005.00928). Where a class token stands for the image, its row
    ranks the others. Eq. 6 has the same form, with entropy operators in place of attention.

    Raises:
        ValueError: no layer, or layers of different or unsuitable shapes.

    >>> attention_rollout([torch.tensor([[0.0, 1.0], [0.0, 1.0]])]).tolist()
    [[0.5, 0.5], [0.0, 1.0]]
    """
    layers = iter(_checked(attentions, "literal"))
    merged = attention_step(None, next(layers))
    for layer in layers:
        merged = attention_step(merged, layer)
    return merged


def attention_step(before: Tensor | None, attention: Tensor) -> Tensor:
    """One layer more of `attention_rollout`; `before` is None where there was none.

    >>> attention_step(None, torch.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    eye = torch.eye(attention.shape[-1], device=attention.device, dtype=attention.dtype)
    mixed = attention + eye
    mixed = mixed / mixed.sum(-1, keepdim=True)
    return mixed if before is None else mixed @ before


@full_precision
def rollout(operators: Tensor | Iterable[Tensor], variant: str = "literal") -> Tensor:
    """Merge the entropy operators of layers l1 … l2, shallow first, into one (..., M, M).

    Eq. 6 starts from H̃ = H of the first layer and multiplies H̃ ← (H + I) H̃ for each later one.

    Args:
        operators: per layer (..., M, M), as a sequence or stacked along the first dimension; for
            "scores" per layer (..., M).
        variant: "literal", the default, is eq. 6 as printed. Over many layers its product tends to
            rank one, and on some images inverts the ranking of the diagonal; at the four layers
            merged by default it keeps the order. "scaled" is H̃ ← (I + H / L) H̃ with L layers: the
            same merge to first order, without the collapse. Since eq. 6 starts from H of layer l1
            and operators are small, l1 weighs most in both.
            "scores" reads eq. 6 for vectors of scores, ∏(1 + s) - 1 elementwise over all layers:
            no layer is special, and small scores simply add up.

    The importance of an item is the merged diagonal (for "scores", the merged vector). One layer is
    returned as it is.

    Raises:
        ValueError: unknown variant, no layer, or layers of different or unsuitable shapes.

    >>> rollout([torch.eye(2), torch.eye(2)]).tolist()  # (I + I) I
    [[2.0, 0.0], [0.0, 2.0]]
    >>> rollout([torch.eye(2), torch.eye(2)], "scaled").tolist()  # (I + I/2) I
    [[1.5, 0.0], [0.0, 1.5]]
    >>> rollout([torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0])], "scores").tolist()
    [2.0, 2.0]
    """
    layers = _checked(operators, variant)
    if variant == "scores":
        return _scores(layers)
    return _product(layers, len(layers) if variant == "scaled" else 1)


def importance(merged: Tensor, variant: str = "literal") -> Tensor:
    """Scores (..., M) of a merged rollout: its diagonal, or the vector itself for "scores".

    >>> importance(torch.tensor([[2.0, 1.0], [1.0, 3.0]])).tolist()
    [2.0, 3.0]
    """
    return merged if variant == "scores" else torch.diagonal(merged, dim1=-2, dim2=-1)


@full_precision
def rolled_importance(operators: Tensor | Iterable[Tensor], variant: str = "literal") -> Tensor:
    """`importance(rollout(operators, variant), variant)` without the last product of matrices.

    Raises what `rollout` raises.

    >>> rolled_importance([torch.eye(2), torch.eye(2)]).tolist()
    [2.0, 2.0]
    """
    layers = _checked(operators, variant)
    if variant == "scores" or len(layers) == 1:
        return importance(_scores(layers) if variant == "scores" else layers[0], variant)
    scale = len(layers) if variant == "scaled" else 1
    if (
        isinstance(operators, Tensor)
        and operators.dtype == torch.float32
        and operators.shape[-1] <= FEW
        and (backend := backend_for(operators))
    ):
        few = min(3, len(layers) - 1)  # layers whose products the kernel does not store
        merged = _product(layers[:-few], scale)
        return backend.kernels.rolled_diagonal(operators[-few:], merged, 1 / scale)
    merged = _product(layers[:-1], scale)
    last = (layers[-1] * merged.mT).sum(-1)  # the diagonal of layers[-1] @ merged
    return importance(merged) + last / scale


def _checked(operators: Tensor | Iterable[Tensor], variant: str) -> list[Tensor]:
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {VARIANTS}, got {variant!r}")
    layers = list(operators)
    if not layers:
        raise ValueError("rollout needs at least one layer, got none")
    shape = layers[0].shape
    if variant == "scores":
        suitable = len(shape) >= 1
    else:
        suitable = len(shape) >= 2 and shape[-1] == shape[-2]
    if not suitable or any(layer.shape != shape for layer in layers):
        wanted = "(..., M)" if variant == "scores" else "(..., M, M)"
        shapes = [tuple(layer.shape) for layer in layers]
        raise ValueError(f"every layer must have the same shape {wanted}, got {shapes}")
    return layers


def _scores(layers: list[Tensor]) -> Tensor:
    merged = layers[0]
    for layer in layers[1:]:
        merged = merged + layer + merged * layer
    return merged


def _product(layers: list[Tensor], scale: int) -> Tensor:
    merged = layers[0]
    for layer in layers[1:]:
        merged = merged + layer @ merged / scale
    return merged
