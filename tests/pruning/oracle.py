"""What a pruned model must compute, by a plain loop over the layers without hooks or caches."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.tiny import IMAGE


def logits(
    model, ids: Tensor, features: list[Tensor], kept: list[Tensor], *, layer: int,
    visible: Tensor | None = None, positions: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Logits `(batch, length, vocabulary)` of whole sequences in which image tokens are hidden.

    features: the projected tokens of every image in reading order; kept: bool `(N,)` of each. From
    `layer` on the others are hidden as keys. visible: bool `(batch, queries, keys)` on top of
    causality; None: everything.
    """
    language = model.model.language_model
    batch, length = ids.shape
    states = language.embed_tokens(ids)
    image = ids == IMAGE
    if features:
        states[image] = torch.cat(features).to(states.dtype)
    stay = torch.ones_like(image)
    if kept:
        stay[image] = torch.cat(kept)
    if visible is None:
        visible = torch.ones(batch, length, length, dtype=torch.bool)
    if positions is None:
        positions = torch.arange(length).expand(batch, -1)
    rotary = language.rotary_emb(states, positions)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    eye = torch.eye(length, dtype=torch.bool)
    for index, block in enumerate(language.layers):
        keys = visible & stay[:, None] if index >= layer else visible
        mask = (causal & keys) | eye  # a hidden token may see itself: nobody reads it
        states = block(states, attention_mask=mask[:, None], position_embeddings=rotary)
    return model.lm_head(language.norm(states))
