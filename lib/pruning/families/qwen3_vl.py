"""Qwen3-VL: no windows; features of three tower layers are added behind decoder layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..engine import sequence
from ..engine.release import UnknownRelease
from .qwen2_5_vl import QwenVision


class Qwen3VL(QwenVision):
    """Qwen3-VL with DeepStack (arXiv 2406.04334): what is added later is of the kept tokens."""

    model_types = ("qwen3_vl",)
    title = "Qwen3-VL"

    def install(self, pruner: Any) -> None:
        """Add the rows of the tokens that are left, wherever they are now.

        The model adds features by a mask over the whole prompt, whose length a layer behind a stage
        does not have any more.
        """
        add = getattr(self.language, "_deepstack_process", None)
        if add is None:
            raise UnknownRelease(f"{type(self.language).__name__} has no _deepstack_process")

        def added(hidden_states: Tensor, visual_pos_masks: Tensor, visual_embeds: Tensor) -> Tensor:
            pass_ = pruner._current.pass_
            stage = None if pass_ is None else pass_.stage
            if stage is None or stage.columns is None:
                return add(hidden_states, visual_pos_masks, visual_embeds)
            mask = visual_pos_masks.to(hidden_states.device)
            whole = hidden_states.new_zeros(*mask.shape, hidden_states.shape[-1])
            whole[mask] = visual_embeds.to(whole.device, whole.dtype)
            columns = stage.columns.to(whole.device)
            own = sequence.take(whole, columns.clamp(min=0))
            return hidden_states + own.masked_fill(columns[..., None] < 0, 0)  # filling has none

        pruner.replace(self.language, "_deepstack_process", added)
