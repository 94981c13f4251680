"""One-shot choice of single tokens by their scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..entropy import METHODS, full_precision
from ..entropy.leave_one_out import scores_of_gram
from ..entropy.operator import operator_of_gram
from ..rollout import VARIANTS, rolled_importance
from .layers import as_layers
from .ranking import check_k, top_mask


@torch.no_grad()
@full_precision
def token_level(
    tokens: Tensor | None,
    k: int,
    *,
    layers: Sequence[Tensor] | None = None,
    rollout: str = "literal",
    method: str = "exact",
    solver: str = "auto",
    gram: bool = False,
    check: bool = True,
) -> Tensor:
    """One-shot choice of the k tokens with the largest scores; mask (..., N).

    One layer: the leave-one-out scores of `method`. Several `layers`: the diagonal of the rollout
    of their entropy operators, or for "scores" the merged leave-one-out scores.

    Raises:
        TypeError: tokens that are no floating-point tensor.
        ValueError: k outside 1..N, unknown names, bad tokens.

    >>> token_level(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), 1).tolist()
    [False, False, True]
    """
    if rollout not in VARIANTS:
        raise ValueError(f"rollout must be one of {VARIANTS}, got {rollout!r}")
    views = as_layers(tokens, layers, gram=gram)
    shape = views.views[-1].shape
    check_k(k, shape[-2], shape)
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    if check:
        views.check()
    matrices = (views.gram_at(index) for index in range(len(views)))
    options = {"solver": solver, "backend": views.backend}
    if len(views) > 1 and rollout != "scores":
        if views.stacked is not None:
            operators = operator_of_gram(views.stacked, **options)
        else:
            operators = [operator_of_gram(matrix, **options) for matrix in matrices]
        scores = rolled_importance(operators, rollout)
    else:
        each = [scores_of_gram(matrix, method, unit=not gram, **options) for matrix in matrices]
        scores = rolled_importance(each, "scores")
    return top_mask(scores, k, check=check)
