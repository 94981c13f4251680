"""A prefill of one prompt written out, in which a plain function prunes: no hooks, batch or cache.

Attention is explicit, so that a reference of a method can look at anything it likes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.tiny import IMAGE, TOKENS


@dataclass
class Moment:
    """What there is before a layer: everything of one prompt, image by image.

    index: the layer about to run, `block` its module. states (L, D) enter it, at `positions` (L,).
    columns: the current columns of the image's tokens; first: which of its first tokens they were.
    text: columns of the text behind the image. before: what the last layer made: `entering`,
    `attention` (heads, L, L), `queries`, `keys`, `values` (heads, L, width) rotated, `norm`.
    embedded: the states (L0, D) of the whole prompt before layer 0, `behind` the text in these.
    """

    index: int
    block: Any
    model: Any
    states: Tensor
    positions: Tensor
    columns: list[int]
    first: list[int]
    text: list[int]
    stage: int
    embedded: Tensor
    behind: list[int]
    whole: list[int]
    before: dict[str, Tensor] = field(default_factory=dict)

    def attention_ahead(self) -> Tensor:
        """Attention (heads, L, L) of the layer about to run, if nothing were dropped."""
        return run(self.model, self.block, self.states, self.positions)[1]["attention"]


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = states.shape[-1] // 2
    turned = torch.cat([-states[..., half:], states[..., :half]], -1)
    return states * cos + turned * sin


def run(model, block, states, positions):
    """One decoder layer, and what it made on the way."""
    language, attention = model.model.language_model, block.self_attn
    cos, sin = (t[0] for t in language.rotary_emb(states[None], positions[None]))
    normed = block.input_layernorm(states)
    width, length = attention.head_dim, len(states)

    def heads(projection):
        return projection(normed).view(length, -1, width).transpose(0, 1)

    queries = rotate(heads(attention.q_proj), cos, sin)
    keys, values = rotate(heads(attention.k_proj), cos, sin), heads(attention.v_proj)
    share = len(queries) // len(keys)
    logits = queries @ keys.repeat_interleave(share, 0).mT / width**0.5
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    weights = logits.masked_fill(~causal, float("-inf")).softmax(-1)
    mixed = (weights @ values.repeat_interleave(share, 0)).transpose(0, 1).reshape(length, -1)
    middle = states + attention.o_proj(mixed)
    norm = block.post_attention_layernorm(middle)
    made = {
        "entering": states, "attention": weights, "queries": queries, "keys": keys,
        "values": values, "norm": norm,
    }  # fmt: skip
    return middle + block.mlp(norm), made


def walk(model, ids, features, stages, choose, *, positions="original"):
    """Logits (vocabulary,) of the last position, and by stage the first tokens kept of each image.

    ids (L,); features: one (N, D) an image; choose(moment) gives the columns to keep of an image in
    the order wanted, and the states that replace theirs, or None.
    """
    language = model.model.language_model
    states = language.embed_tokens(ids)
    states[ids == IMAGE] = torch.cat(features)
    embedded, place = states, torch.arange(len(ids))
    spots = (ids == IMAGE).nonzero().squeeze(1).split(TOKENS)
    images = [spot.tolist() for spot in spots]
    firsts = [list(range(TOKENS)) for _ in images]
    text = (ids != IMAGE).nonzero().squeeze(1).tolist()
    where = list(range(len(ids)))  # the first column of each current one
    before, kept = {}, []
    for index, block in enumerate(language.layers):
        if index in stages:
            chosen, fresh = [], []
            for number, columns in enumerate(images):
                last = spots[number][-1]
                behind = [c for c in text if c > last]
                now = [c for c, first in enumerate(where) if first in behind]
                moment = Moment(
                    index, block, model, states, place, columns, firsts[number], now, len(kept),
                    embedded, behind, spots[number].tolist(), before,
                )  # fmt: skip
                order, new = choose(moment)
                chosen.append(order)
                fresh.append(states[order] if new is None else new)
            parts, source, at = [], [], 0
            for columns, order, new in zip(images, chosen, fresh):
                parts += [states[at : columns[0]], new]
                source += [*range(at, columns[0]), *order]
                at = columns[-1] + 1
            parts.append(states[at:])
            source += range(at, len(states))
            firsts = [
                [own[columns.index(c)] for c in order]
                for own, columns, order in zip(firsts, images, chosen)
            ]
            kept.append([sorted(own) for own in firsts])
            images = [[source.index(c) for c in order] for order in chosen]
            states = torch.cat(parts)
            where = [where[c] for c in source]
            place = place[source] if positions == "original" else torch.arange(len(states))
        states, before = run(model, block, states, place)
    return model.lm_head(language.norm(states))[-1], kept


def agrees(model, pruner, choose, inputs, *, tolerance=1e-4):
    """The pruner, on a padded batch, keeps and computes what the written-out prefill does."""
    positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)  # as `generate` counts
    with torch.inference_mode(), pruner(model):
        out = model(**inputs, position_ids=positions).logits[:, -1]
        stages = [(layer, list(masks)) for layer, masks in pruner.kept_stages]
        features = list(model.model.get_image_features(inputs["pixel_values"]).pooler_output)
    first = 0
    for row in range(len(out)):
        ids = inputs["input_ids"][row, inputs["attention_mask"][row] > 0]
        count = int((ids == IMAGE).sum()) // TOKENS
        with torch.inference_mode():
            want, kept = walk(
                model, ids, features[first : first + count], [layer for layer, _ in stages],
                choose, positions=pruner.positions,
            )  # fmt: skip
        for (_, masks), sets in zip(stages, kept):
            own = [m.nonzero().squeeze(1).tolist() for m in masks[first : first + count]]
            assert own == sets
        torch.testing.assert_close(out[row], want, atol=tolerance, rtol=tolerance)
        first += count


def largest(scores, count):
    """Indices of the largest scores, ties by index, in rising order."""
    order = sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))
    return sorted(order[:count])
