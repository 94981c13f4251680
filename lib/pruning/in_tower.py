"""What methods share that reduce the tokens inside the vision tower, between attention and MLP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..merging import Merged
from .engine.images import ImageTokens
from .engine.pruner import VisualPruner


@dataclass(eq=False, kw_only=True)
class InTower(VisualPruner):
    """A method that makes fewer tokens of more in some blocks of a CLIP tower.

    Attention is proportional: the logarithm of what a token stands for is added to its logits. What
    is left goes to the language model in raster order, at the places of the tokens that others were
    merged into; `kept` names these places. Blocks behind the feature layer are left alone.

    Raises `ValueError` for a layer other than 0, `TypeError` for a model it cannot work on.
    """

    supports = frozenset({"llava"})
    uses_own_vision = True
    vision_only = True
    merges = True
    #: which of queries, keys and values `reduce` reads
    reads: ClassVar[str] = "k"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.only_ahead("reduces tokens")

    def reductions(self, tokens: int, depth: int, used: int) -> list[int]:
        """How many of `tokens` patches go in each of the `used` blocks before the feature layer.

        depth: blocks of the tower.
        """
        raise NotImplementedError

    def reduce(self, hidden: Tensor, state: Merged, made: dict[str, Tensor], r: int) -> Merged:
        """r tokens fewer: of states `(n, T, D)` behind the attention, class token first.

        state: their sizes and positions; its tokens are None. made: what the block's projections
        gave, `(n, T, D)` each, by name.
        """
        raise NotImplementedError

    def attach(self, model: nn.Module) -> None:
        family = self.family
        self._refuse(family.config, family.tower)
        tokens = family.patches()
        plan = self.reductions(tokens, len(family.blocks()), family.feature_layer())
        if not any(plan):
            return
        self.heads = family.attention(0).heads
        for block, r in zip(family.blocks(), plan):
            self._patch(block, r, tokens)
        self.hook(family.projector, self._to_raster, before=False)

    def _refuse(self, config: Any, tower: nn.Module) -> None:
        name = type(self).__name__
        if config.vision_config.model_type != "clip_vision_model":
            raise TypeError(
                f"{name} needs a CLIP vision tower, got {config.vision_config.model_type!r}"
            )
        if not isinstance(config.vision_feature_layer, int):
            raise TypeError(
                f"{name} needs one vision_feature_layer; layers "
                f"{config.vision_feature_layer} would differ in length"
            )
        if "flash" in (tower.config._attn_implementation or ""):
            raise TypeError("proportional attention needs 'sdpa' or 'eager' in the vision tower")
        if self.family.keeps_class_token and not self.keeps_all:
            raise TypeError(f"{name} needs vision_feature_select_strategy='default' (patches only)")

    def _patch(self, block: nn.Module, r: int, tokens: int) -> None:
        original = block.forward

        def forward(hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any):
            record = self._current.record
            if record is None:  # the tower is run on its own, not for a prompt
                return original(hidden_states, attention_mask=attention_mask, **kwargs)
            state = record.extra.get(self.name)
            if state is None:
                state = _unmerged(hidden_states)
            elif hidden_states.shape[1] < tokens + 1:
                attention_mask = state.sizes.log().to(hidden_states.dtype)[:, None, None, :]
                # SDPA's fused kernels want the key axis materialised over the queries
                attention_mask = attention_mask.expand(-1, 1, hidden_states.shape[1], -1)
            entering = block.layer_norm1(hidden_states)
            made = record.extra[f"{self.name} made"] = {}
            attended, _ = block.self_attn(
                hidden_states=entering, attention_mask=attention_mask, **kwargs
            )
            state = self.reduce(hidden_states + attended, state._replace(tokens=None), made, r)
            record.extra[self.name] = state._replace(tokens=None)
            return state.tokens + block.mlp(block.layer_norm2(state.tokens))

        for name in self.reads:
            self._keep(getattr(block.self_attn, f"{name}_proj"), name)
        self.replace(block, "forward", forward)
        self._tokens = tokens

    def _keep(self, module: nn.Module, name: str) -> None:
        def keep(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
            record = self._current.record
            if record is not None and f"{self.name} made" in record.extra:
                record.extra[f"{self.name} made"][name] = output

        self.hook(module, keep, before=False)

    def _to_raster(self, module: nn.Module, args: tuple, kwargs: dict, out: Tensor) -> Tensor:
        """Put each projected token into the slot of its position; the other slots are dropped."""
        record = self._current.record
        if record is None or self.name not in record.extra:
            return out
        place = record.extra[self.name].positions[:, 1:] - 1  # the class token stays first
        slots = out.new_zeros(out.shape[0], self._tokens, out.shape[-1])
        return slots.scatter(1, place[..., None].expand_as(out), out)

    def select(self, images: ImageTokens) -> Tensor:
        positions = images.of_vision(images.vision.extra[self.name].positions[:, 1:] - 1)
        mask = torch.zeros(
            images.count, images.tokens, dtype=torch.bool, device=images.columns.device
        )
        return mask.scatter_(1, positions.to(mask.device), True)


def _unmerged(hidden: Tensor) -> Merged:
    """What every token stands for before the first block."""
    shape = hidden.shape[:2]
    sizes = torch.ones(shape, dtype=torch.float32, device=hidden.device)
    return Merged(hidden, sizes, torch.arange(shape[1], device=hidden.device).expand(shape))
