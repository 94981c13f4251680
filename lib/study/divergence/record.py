"""What is kept of an image, and how it is computed from what two models predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from torch import Tensor
from torch.nn import functional

from .text import Text


class DivergenceRecord(TypedDict):
    """What one image leaves behind under one method.

    kl: divergence from the unpruned model, mean over the tokens of the image's references, in nats.
    nll: negative log-likelihood of the same tokens under the method, likewise. tokens: how many.
    kept: visual tokens that reached the end of the language model, of `visual_tokens`.
    """

    image_id: int
    kl: float
    nll: float
    tokens: int
    kept: int
    visual_tokens: int


def records_of(
    ids: Sequence[int],
    text: Text,
    unpruned: Tensor,
    pruned: Tensor,
    counts: Sequence[Sequence[int]],
) -> list[DivergenceRecord]:
    kl = functional.kl_div(pruned, unpruned, reduction="none", log_target=True).sum(-1)
    targets = text.targets.to(pruned.device)
    nll = -pruned.gather(1, targets[:, None]).squeeze(1)
    count = len(ids)
    names = "image_id", "kl", "nll", "tokens", "kept", "visual_tokens"
    read = text.means(kl, count), text.means(nll, count), text.counts(count).tolist()
    return [dict(zip(names, row)) for row in zip(ids, *read, *counts, strict=True)]
