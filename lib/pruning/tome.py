"""ToMe: merge similar tokens inside the vision tower (arXiv 2210.09461)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..merging import Merged, merge, schedule
from .engine.images import ImageTokens
from .engine.pruner import VisualPruner


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
    merges = True
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
