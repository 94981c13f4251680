"""What captioning lets others look at: every method's pass over the prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ...pruning.engine.release import cache_of
from .record import Batch

__all__ = ["Listener", "Prefill", "prefill_of"]


@dataclass(frozen=True)
class Prefill:
    """A batch's prompts as a method left them.

    inputs: what the model was given, on its device. logits (images, V): behind the last token.
    cache: keys and values of the prompts, to go on from. kept: tokens of each image that reached
    the end of the language model, None for the unpruned model.
    """

    inputs: Mapping[str, Tensor]
    logits: Tensor
    cache: Any
    kept: list[int] | None


class Listener(Protocol):
    """Is called with every method's pass over a batch, its pruner still active."""

    def __call__(self, slug: str, batch: Batch, prefill: Prefill) -> None: ...


def prefill_of(answer: Any, inputs: Mapping[str, Tensor], kept: list[int] | None) -> Prefill:
    """The prompts' pass within what `generate` returned with its logits; takes over its cache."""
    cache = cache_of(answer)
    if said := cache.get_seq_length() - inputs["input_ids"].shape[1]:
        cache.crop(-said)
    return Prefill(inputs, answer.logits[0], cache, kept)
