"""ToMe: merge similar tokens inside the vision tower (arXiv 2210.09461)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .engine.images import ImageTokens
from .engine.pruner import VisualPruner


class Merged(NamedTuple):
    """Tokens after merging: `(n, T, D)`, with `(n, T)` sizes and positions before any merging."""

    tokens: Tensor
    sizes: Tensor
    positions: Tensor


def merge(tokens: Tensor, metric: Tensor, sizes: Tensor, positions: Tensor, r: int) -> Merged:
    """One step of bipartite soft matching: the r most similar pairs become r tokens.

    tokens `(n, T, D)` and metric `(n, T, d)`, both with the class token first; sizes `(n, T)`
    counts the patches a token stands for, positions `(n, T)` its place in the input. Every second
    token looks for its most similar partner among the others; the r closest are averaged into
    their partner, weighted by size. The class token is never merged away. The partner keeps its
    own position. r = 0 changes nothing.
    """
    if r == 0:
        return Merged(tokens, sizes, positions)
    length = tokens.shape[1]
    if r > (length - 1) // 2:
        raise ValueError(f"r must be at most {(length - 1) // 2} for {length} tokens, got {r}")
    metric = metric / metric.norm(dim=-1, keepdim=True)
    source, target = slice(0, None, 2), slice(1, None, 2)
    similarity = metric[:, source] @ metric[:, target].transpose(1, 2)
    similarity[:, 0] = float("-inf")  # the class token
    best, partner = similarity.max(-1)
    order = best.argsort(dim=-1, descending=True, stable=True)
    merged, rest = order[:, :r], order[:, r:].sort(dim=1).values
    partner = partner.gather(1, merged)

    def rows(states: Tensor, index: Tensor) -> Tensor:
        return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))

    weight = sizes[..., None].to(tokens.dtype)
    weighted = torch.cat([tokens * weight, weight], dim=-1)  # sums of tokens and of sizes
    kept, sums = weighted[:, source], weighted[:, target]
    # a product with the indicator: adding by index has no fixed order on a GPU
    into = torch.arange(sums.shape[1], device=partner.device)[None, :, None] == partner[:, None]
    sums = sums + into.to(sums.dtype) @ rows(kept, merged)
    out = torch.cat([rows(kept, rest), sums], dim=1)
    place = torch.cat([positions[:, source].gather(1, rest), positions[:, target]], dim=1)
    return Merged(out[..., :-1] / out[..., -1:], out[..., -1].round().to(sizes.dtype), place)


def schedule(tokens: int, keep: int, blocks: int) -> list[int]:
    """How many tokens each block merges so that `keep` of `tokens` patches are left.

    As even as possible, early blocks first; at most half of the patches in one block.

    >>> schedule(256, 128, 4)
    [32, 32, 32, 32]

    Raises `ValueError` if so many merges do not fit into the blocks.
    """
    if keep < (smallest := _smallest(tokens, blocks)):
        raise ValueError(
            f"ToMe cannot merge {tokens} tokens into {keep} within {blocks} blocks "
            f"(at most half in each); the smallest count here is {smallest}"
        )
    plan, length = [], tokens
    for later in reversed(range(blocks)):
        r = min(-(-(length - keep) // (later + 1)), length // 2)
        while _smallest(length - r, later) > keep:  # rounding: an even share can be too little
            r += 1
        plan.append(r)
        length -= r
    return plan


def _smallest(tokens: int, blocks: int) -> int:
    """What is left of `tokens` if each block merges half of them."""
    for _ in range(blocks):
        tokens -= tokens // 2
    return tokens


@dataclass(eq=False, kw_only=True)
class ToMe(VisualPruner, name="tome"):
    """Merges tokens in every block of the CLIP tower, between attention and MLP.

    As published: the metric is the keys' mean over heads, even and odd tokens are matched, sizes
    weight the averages, attention is proportional (log of the size is added to the logits) and
    the class token is protected. r per block follows from `keep`, so the count is exact; blocks
    behind the feature layer are left alone. Merged tokens go to the language model in raster
    order, at the position of the token the others were merged into; `kept` names these positions.
    """

    supports = frozenset({"llava"})
    uses_own_vision = True
    vision_only = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer != 0:
            raise ValueError(f"ToMe merges before the language model: layer is 0, not {self.layer}")

    def attach(self, model: nn.Module) -> None:
        family = self.family
        self._refuse(family.config, family.tower)
        tokens = family.patches()
        plan = schedule(tokens, self.budget(tokens), family.feature_layer())
        if not any(plan):
            return
        for block, r in zip(family.blocks(), plan):
            self._patch(block, r, tokens)
        self.hook(family.projector, self._to_raster, before=False)

    def _refuse(self, config: Any, tower: nn.Module) -> None:
        if config.vision_config.model_type != "clip_vision_model":
            raise TypeError(
                f"ToMe needs a CLIP vision tower, got {config.vision_config.model_type!r}"
            )
        if not isinstance(config.vision_feature_layer, int):
            raise TypeError(
                "ToMe needs one vision_feature_layer; layers "
                f"{config.vision_feature_layer} would differ in length"
            )
        if "flash" in (tower.config._attn_implementation or ""):
            raise TypeError("proportional attention needs 'sdpa' or 'eager' in the vision tower")
        if self.family.keeps_class_token and not self.keeps_all:
            raise TypeError("ToMe needs vision_feature_select_strategy='default' (patches only)")

    def _patch(self, block: nn.Module, r: int, tokens: int) -> None:
        original = block.forward
        heads = block.self_attn.num_heads

        def forward(hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any):
            record = self._current.record
            if record is None:  # the tower is run on its own, not for a prompt
                return original(hidden_states, attention_mask=attention_mask, **kwargs)
            state = record.extra.get("tome")
            if state is None:
                state = _unmerged(hidden_states)
            elif hidden_states.shape[1] < tokens + 1:
                attention_mask = state.sizes.log().to(hidden_states.dtype)[:, None, None, :]
                # SDPA's fused kernels want the key axis materialised over the queries
                attention_mask = attention_mask.expand(-1, 1, hidden_states.shape[1], -1)
            entering = block.layer_norm1(hidden_states)
            attended, _ = block.self_attn(
                hidden_states=entering, attention_mask=attention_mask, **kwargs
            )
            hidden_states = hidden_states + attended
            keys = record.extra.pop("tome keys")
            metric = keys.unflatten(-1, (heads, -1)).mean(2)
            state = merge(hidden_states, metric, state.sizes, state.positions, r)
            record.extra["tome"] = state._replace(tokens=None)
            return state.tokens + block.mlp(block.layer_norm2(state.tokens))

        def keep_keys(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
            if self._current.record is not None:
                self._current.record.extra["tome keys"] = output

        self.hook(block.self_attn.k_proj, keep_keys, before=False)
        self.replace(block, "forward", forward)
        self._tokens = tokens

    def _to_raster(self, module: nn.Module, args: tuple, kwargs: dict, out: Tensor) -> Tensor:
        """Put each projected token into the slot of its position; the other slots are dropped."""
        record = self._current.record
        if record is None or "tome" not in record.extra:
            return out
        place = record.extra["tome"].positions[:, 1:] - 1  # the class token stays first
        slots = out.new_zeros(out.shape[0], self._tokens, out.shape[-1])
        return slots.scatter(1, place[..., None].expand_as(out), out)

    def select(self, images: ImageTokens) -> Tensor:
        positions = images.of_vision(images.vision.extra["tome"].positions[:, 1:] - 1)
        mask = torch.zeros(
            images.count, images.tokens, dtype=torch.bool, device=images.columns.device
        )
        return mask.scatter_(1, positions.to(mask.device), True)


def _unmerged(hidden: Tensor) -> Merged:
    """What every token stands for before the first block."""
    shape = hidden.shape[:2]
    sizes = torch.ones(shape, dtype=torch.float32, device=hidden.device)
    return Merged(hidden, sizes, torch.arange(shape[1], device=hidden.device).expand(shape))
