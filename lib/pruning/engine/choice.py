"""From scores to kept sets."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ...selection.ranking import top_mask
from .graphs import graphs


def best(scores: Tensor, count: int) -> Tensor:
    """Bool `(n, N)`, True for the `count` largest of `scores`; near-ties go to the lower index.

    >>> best(torch.tensor([[0.1, 0.9, 0.5]]), 2).tolist()
    [[False, True, True]]
    """
    return graphs(("best", count), functools.partial(_best, count=count), [scores])


def _best(tensors: list[Tensor], *, count: int) -> Tensor:
    return top_mask(tensors[0], count, check=False)


def ranks(scores: Tensor) -> Tensor:
    """The place of every score `(n, N)` from the largest down; ties by index.

    >>> ranks(torch.tensor([[0.1, 0.9, 0.9]])).tolist()
    [[2, 0, 1]]
    """
    order = scores.sort(dim=-1, descending=True, stable=True).indices
    place = torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, place)


def log_scale(attention: Tensor) -> Tensor:
    """Attention on a scale on which small weights are told apart as large ones are.

    Scores are compared on a grid over their range, most of which a few large weights would take.

    >>> log_scale(torch.tensor([1.0, 0.0])).isfinite().all().item()
    True
    """
    return attention.clamp_min(torch.finfo(attention.dtype).tiny).log()
