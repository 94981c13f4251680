"""Where the words of an answer look: attention to system, image, instruction and earlier output.

Each layer's attention rows are recomputed from the queries and keys it made, so the model keeps its
own attention kernel and no layer's full matrix is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from ...pruning.engine.attention import from_projections
from ...pruning.families import resolve
from ..captioning import repeatable_attention, until_end

__all__ = ["PARTS", "attention_shares", "generate", "parts", "watch_rows"]

#: What an output token can look at, in the order of the sequence.
PARTS = ("system", "image", "instruction", "output")
_AT_ONCE = 8  # rows recomputed together


@torch.inference_mode()
def generate(model: Any, inputs: Mapping[str, Tensor], max_new_tokens: int = 64) -> Tensor:
    """The greedy answer, (n,) token ids without the end token; inside a pruner the pruned one's."""
    length = inputs["input_ids"].shape[1]
    with repeatable_attention():
        out = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return until_end(model, out[0, length:])


@torch.inference_mode()
def attention_shares(
    model: Any, inputs: Mapping[str, Tensor], answer: Tensor
) -> tuple[Tensor, list[int], Tensor]:
    """Shares (L, 4) and counts of `PARTS`, and maps (L, N), for one prompt and its answer.

    Averaged over heads and over the positions that produced the answer's tokens.

    Raises `ValueError` for an empty answer, `TypeError` for attention layers without plain q and k
    projections.
    """
    length = inputs["input_ids"].shape[1]
    full, rows, spots = joined(model, inputs, answer)
    part = parts(full.shape[1], spots, length)
    indicator = torch.nn.functional.one_hot(part, len(PARTS)).float()
    found: list[tuple[Tensor, Tensor]] = []

    def reduce(weights: Tensor) -> None:
        mean = weights.mean(0).cpu()
        found.append((mean @ indicator, mean[spots]))

    family = resolve(model)
    with ExitStack() as stack:
        for layer in model.model.language_model.layers:
            watch_rows(stack, family, layer.self_attn, rows, reduce)
        one_pass(model, inputs, full)
    shares, maps = (torch.stack(each) for each in zip(*found))
    counts = torch.bincount(part, minlength=len(PARTS)).tolist()
    return shares, [*counts[:3], len(answer)], maps


def joined(
    model: Any, inputs: Mapping[str, Tensor], answer: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A prompt and its answer as one sequence.

    Returns its ids (1, S), the positions (A,) that produced the answer's A tokens, and those of the
    visual tokens (N,), the last two on the CPU.

    Raises `ValueError` for an empty answer.
    """
    if len(answer) == 0:
        raise ValueError("the model gave an empty answer: there is no output token to look from")
    ids = inputs["input_ids"]
    full = torch.cat([ids, answer[None, :-1].to(ids.device)], 1)
    rows = torch.arange(ids.shape[1] - 1, full.shape[1])
    return full, rows, (full[0] == model.config.image_token_id).nonzero().squeeze(1).cpu()


def one_pass(model: Any, inputs: Mapping[str, Tensor], full: Tensor) -> None:
    """The model over a sequence of `joined`, for what hooks see of it."""
    model(
        input_ids=full,
        attention_mask=torch.ones_like(full),
        pixel_values=inputs["pixel_values"],
        use_cache=False,
        logits_to_keep=1,
    )


def parts(size: int, spots: Tensor, length: int) -> Tensor:
    """The number in `PARTS` of each of `size` positions; the prompt has `length` of them."""
    position = torch.arange(size)
    part = torch.where(position < spots[0], 0, 2)
    part = torch.where(position >= length, 3, part)
    part[spots] = 1
    return part


def watch_rows(
    stack: ExitStack, family: Any, module: Any, rows: Tensor, use: Callable[[Tensor], None]
) -> None:
    """Hand `use` the attention (rows, positions) of one layer, averaged over heads.

    Raises `TypeError` for a layer without plain q and k projections.
    """
    if not hasattr(module, "q_proj") or hasattr(module, "q_norm"):
        raise TypeError(f"cannot read queries and keys of {type(module).__name__}")
    made: dict[str, Tensor] = {}

    def keep(name: str) -> Callable:
        def hook(module: Any, args: tuple, output: Tensor) -> None:
            made[name] = output

        return hook

    def read(module: Any, args: tuple, kwargs: dict, output: Any) -> None:
        query, key = made.pop("q"), made.pop("k")
        layer = from_projections(family, module, query, key, kwargs["position_embeddings"])
        use(torch.cat([layer.rows(chunk[None])[0] for chunk in rows.split(_AT_ONCE)]))

    stack.callback(module.q_proj.register_forward_hook(keep("q")).remove)
    stack.callback(module.k_proj.register_forward_hook(keep("k")).remove)
    stack.callback(module.register_forward_hook(read, with_kwargs=True).remove)
