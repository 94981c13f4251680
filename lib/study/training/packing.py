"""An image and several of its captions as one sequence: the image is read once for all of them.

Layout: prompt | caption 1 | caption 2 | ... | padding. Every caption sees the prompt and itself,
never another caption, and its positions follow the prompt's. The loss of five packed captions is
that of five sequences (a test says so) at a fifth of the cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration, PreTrainedModel


class Packed(NamedTuple):
    """Captions of B images, packed behind a prompt of P positions; S = their room.

    words : (B, S) token ids that are read, each the last of its caption left out.
    place : (B, S) number of the word in its caption, from 0.
    owner : (B, S) number of the caption; -1 for padding.
    source : (B, T) where each target is predicted from: -1 for the end of the prompt, else a
        column of `words`.
    target : (B, T) token ids, -100 for padding.
    weight : (B, T) of each target, 1 by default.
    """

    words: torch.Tensor
    place: torch.Tensor
    owner: torch.Tensor
    source: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor

    def to(self, device: torch.device | str) -> Packed:
        """On another device."""
        return Packed(*(x.to(device, non_blocking=True) for x in self))


def pack(
    captions: Sequence[Sequence[Sequence[int]]],
    *,
    room: int,
    weights: Sequence[Sequence[float]] | None = None,
) -> Packed:
    """Pack the captions of each image; the last ones are left out where `room` is too small.

    Parameters
    ----------
    captions : for each image, token ids of each caption, its end included.
    room : positions behind the prompt.
    weights : of each caption, in place of 1.
    """
    size = len(captions)
    targets = room + max(len(each) for each in captions)
    words, place = torch.zeros((size, room), dtype=torch.long), torch.zeros((size, room)).long()
    owner = torch.full((size, room), -1)
    source = torch.full((size, targets), -1)
    target, weight = torch.full((size, targets), -100), torch.zeros((size, targets))
    for row, each in enumerate(captions):
        column = goal = 0
        for number, said in enumerate(each):
            length = len(said)
            if column + length - 1 > room:
                break
            end = column + length - 1
            words[row, column:end] = torch.as_tensor(said[:-1])
            place[row, column:end] = torch.arange(length - 1)
            owner[row, column:end] = number
            source[row, goal + 1 : goal + length] = torch.arange(column, end)
            target[row, goal : goal + length] = torch.as_tensor(said)
            weight[row, goal : goal + length] = 1 if weights is None else weights[row][number]
            column, goal = end, goal + length
    used = int((target >= 0).sum(1).max())
    return Packed(words, place, owner, source[:, :used], target[:, :used], weight[:, :used])


def prompt_embeddings(
    model: PreTrainedModel, visual: torch.Tensor, prompt: tuple[list[int], list[int]]
) -> torch.Tensor:
    """(B, N, D) projected visual tokens to (B, P, D): what the language model reads first."""
    embed = model.get_input_embeddings()
    before, after = (
        embed(torch.tensor(ids, device=visual.device)).to(visual.dtype) for ids in prompt
    )
    size = len(visual)
    return torch.cat([before.expand(size, -1, -1), visual, after.expand(size, -1, -1)], 1)


def packed_mask(owner: torch.Tensor, prompt: int, hidden: torch.Tensor | None) -> torch.Tensor:
    """Who sees whom: (B, 1, P + S, P + S) boolean.

    Parameters
    ----------
    owner : (B, S), see `Packed`.
    prompt : P.
    hidden : (B, P) boolean, prompt positions that nobody sees (dropped visual tokens).
    """
    size, room = owner.shape
    length = prompt + room
    everyone = torch.cat([owner.new_full((size, prompt), -2), owner], 1)
    same = everyone[:, :, None] == everyone[:, None, :]
    mask = same | (everyone == -2)[:, None, :]
    if hidden is not None:
        seen = torch.ones((size, length), dtype=torch.bool, device=owner.device)
        seen[:, :prompt] = ~hidden
        mask = mask & seen[:, None, :]
    causal = torch.ones((length, length), dtype=torch.bool, device=owner.device).tril()
    own = torch.eye(length, dtype=torch.bool, device=owner.device)  # no row without a key
    return ((mask & causal) | own)[:, None]


def packed_loss(
    model: LlavaForConditionalGeneration,
    visual: torch.Tensor,
    packed: Packed,
    prompt: tuple[list[int], list[int]],
    *,
    keep: torch.Tensor | None = None,
    smoothing: float = 0.0,
    layers: Sequence[Callable] | None = None,
) -> torch.Tensor:
    """Weighted sum of the targets' cross-entropy over the number of targets.

    Parameters
    ----------
    visual : (B, N, D) projected visual tokens.
    packed : on the same device.
    prompt : token ids before and after the image.
    keep : (B, N) boolean; the other visual tokens are hidden, positions stay.
    smoothing : label smoothing.
    layers : the decoder layers (compiled ones, say) instead of the model's own.
    """
    language = model.model.language_model
    start = prompt_embeddings(model, visual, prompt)
    size, length, _ = start.shape
    hidden = None
    if keep is not None:
        hidden = torch.zeros((size, length), dtype=torch.bool, device=visual.device)
        hidden[:, len(prompt[0]) : len(prompt[0]) + keep.shape[1]] = ~keep
    states = torch.cat([start, language.embed_tokens(packed.words).to(start.dtype)], 1)
    front = torch.arange(length, device=visual.device).expand(size, -1)
    positions = torch.cat([front, length + packed.place], 1)
    mask = packed_mask(packed.owner, length, hidden)
    rotary = language.rotary_emb(states, position_ids=positions)
    for layer in layers if layers is not None else language.layers:
        states = layer(
            states, attention_mask=mask, position_ids=positions, position_embeddings=rotary
        )
    where = packed.source + length  # -1 is the end of the prompt
    states = states.gather(1, where[..., None].expand(-1, -1, states.shape[-1]))
    logits = model.lm_head(language.norm(states)).float()
    each = F.cross_entropy(
        logits.flatten(0, 1), packed.target.flatten(), ignore_index=-100,
        reduction="none", label_smoothing=smoothing,
    )  # fmt: skip
    return (each * packed.weight.flatten()).sum() / (packed.target >= 0).sum()
