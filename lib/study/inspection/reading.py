"""One pass of a model over a prompt and its answer, with everything the study looks at kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...pruning.engine.tower import attention_weights
from ...pruning.families import Family, resolve
from .attention import joined, one_pass, watch_rows
from .states import checked

__all__ = ["Reading", "read", "tower_attention"]


class Reading(NamedTuple):
    """What one pass over one image, its prompt and an answer of A tokens left behind.

    Attributes:
        vision: (V, N, D) states of the patches, from the tower's embeddings to the layer that the
            projector reads.
        tower: (V - 1, T, T) attention of the blocks between them, averaged over heads; with the
            class token, which comes first.
        language: (L, S, E) states that enter each language layer.
        rows: (L, A, S) attention of the positions that produced the answer, averaged over heads;
            the first is the prompt's last token.
        spots: (N,) positions of the visual tokens.
        length: positions of the prompt.
    """

    vision: Tensor
    tower: Tensor
    language: Tensor
    rows: Tensor
    spots: Tensor
    length: int


@torch.inference_mode()
def read(model: Any, inputs: Mapping[str, Tensor], answer: Tensor) -> Reading:
    """Read a prompt `inputs` (batch one) and an answer (A,) in a single pass, all on the CPU after.

    Raises `ValueError` for an empty answer, `TypeError` for models other than `states.checked`.
    """
    checked(model.config)
    full, places, spots = joined(model, inputs, answer)
    family = resolve(model)
    vision: list[Tensor] = []
    tower: list[Tensor] = []
    language: list[Tensor] = []
    rows: list[Tensor] = []
    with ExitStack() as stack:
        _watch_tower(stack, family, vision, tower)
        for layer in family.layers:
            watch_rows(stack, family, layer.self_attn, places, lambda w: rows.append(w.cpu()))
            _entering(stack, layer, lambda states: language.append(states[0].float().cpu()))
        one_pass(model, inputs, full)
    return Reading(
        family.patch_rows(torch.stack(vision)),
        torch.stack(tower),
        torch.stack(language),
        torch.stack(rows),
        spots,
        inputs["input_ids"].shape[1],
    )


@torch.inference_mode()
def tower_attention(model: Any, pixels: Tensor) -> Tensor:
    """Attention (V - 1, T, T) of the tower's blocks for one image, as in `Reading.tower`."""
    family = resolve(model)
    tower: list[Tensor] = []
    with ExitStack() as stack:
        _watch_tower(stack, family, [], tower)
        family.tower(pixels)
    return torch.stack(tower)


def _watch_tower(
    stack: ExitStack, family: Family, vision: list[Tensor], tower: list[Tensor]
) -> None:
    """States that enter the blocks up to the projector's layer, and attention of those before."""
    blocks, last = family.blocks(), family.feature_layer()
    for number, block in enumerate(blocks[:last]):
        _entering(stack, block, lambda states: vision.append(states[0].float().cpu()))
        _tower_attention(stack, family, number, block, tower)

    def left(module: Any, args: tuple, kwargs: dict, output: Any) -> None:
        states = output if isinstance(output, Tensor) else output[0]
        vision.append(states[0].float().cpu())

    handle = blocks[last - 1].register_forward_hook(left, with_kwargs=True)
    stack.callback(handle.remove)


def _tower_attention(
    stack: ExitStack, family: Family, number: int, block: Any, tower: list[Tensor]
) -> None:
    attention = family.attention(number)
    made: dict[str, Tensor] = {}

    def keep(name: str, part: slice | None) -> Callable:
        def hook(module: Any, args: tuple, output: Tensor) -> None:
            made[name] = output if part is None else output[..., part]

        return hook

    def done(module: Any, args: tuple, output: Any) -> None:
        weights = attention_weights(made.pop("q"), made.pop("k"), attention)
        tower.append(weights[0].mean(0).cpu())

    for name, source in (("q", attention.query), ("k", attention.key)):
        handle = source.module.register_forward_hook(keep(name, source.part))
        stack.callback(handle.remove)
    stack.callback(block.register_forward_hook(done).remove)


def _entering(stack: ExitStack, module: Any, use: Callable[[Tensor], None]) -> None:
    """Hand `use` the states (batch, positions, D) that enter a block."""

    def hook(module: Any, args: tuple, kwargs: dict) -> None:
        use(args[0] if args else kwargs["hidden_states"])

    stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
