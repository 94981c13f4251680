"""A model, pruned or not, reads the references of one batch after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ...pruning.engine.release import cache_name, cache_of
from ..captioning import SharedVision
from ..captioning.record import Batch
from .record import DivergenceRecord, records_of
from .text import Text


class Reader:
    """Has a model, pruned or not, read the references of one batch after the other."""

    def __init__(self, model: Any, vision: SharedVision | None) -> None:
        self.model, self.vision = model, vision
        #: whether positions have several axes (Qwen's multimodal RoPE)
        self.axes = hasattr(getattr(model, "model", None), "rope_deltas")

    def __call__(
        self, batch: Batch, inputs: Mapping[str, Tensor], text: Text, pruners: Mapping[str, Any]
    ) -> dict[str, list[DivergenceRecord]]:
        """The records of a batch under every method."""
        model, ids = self.model, [int(example.image_id) for example in batch]
        inputs = {
            name: value.to(model.device, model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        found = {}
        try:
            visual = (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist()
            unpruned, _ = self._log_probabilities(ids, inputs, text, None)
            for slug, pruner in pruners.items():
                pruned, kept = unpruned, visual
                if pruner is not None:
                    pruned, kept = self._log_probabilities(ids, inputs, text, pruner)
                found[slug] = records_of(ids, text, unpruned, pruned, (kept, visual))
        except torch.OutOfMemoryError as error:
            error.add_note(f"batch_size={len(batch)} does not fit; use a smaller one")
            raise
        self.vision.clear()
        return found

    def _log_probabilities(
        self, ids: Sequence[int], inputs: Mapping[str, Tensor], text: Text, pruner: Any
    ) -> tuple[Tensor, list[int]]:
        """Log-probabilities (T, V) float32 where a target stands, and each image's kept tokens."""
        shared = not getattr(pruner, "uses_own_vision", False)
        with (
            self.vision.batch(ids) if shared else nullcontext(),
            pruner(self.model) if pruner is not None else nullcontext() as active,
        ):
            if hasattr(active, "image_keys"):
                active.image_keys = torch.tensor(ids, dtype=torch.int64)
            mask = inputs["attention_mask"]
            # left-padded rows count their own tokens, as `generate` does; with positions in several
            # axes, the model counts
            places = {} if self.axes else {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
            output = self.model(**inputs, **places, use_cache=True, logits_to_keep=1)
            kept = [len(row) for row in active.kept_per_prompt] if active is not None else []
            return self.read(output.logits[:, -1], cache_of(output), mask, text), kept

    def read(self, logits: Tensor, cache: Any, mask: Tensor, text: Text) -> Tensor:
        """Log-probabilities (T, V) float32 behind a prompt's pass: its last logits and cache."""
        logits = logits.repeat_interleave(text.copies, dim=0)[text.first]
        if text.ids.shape[1]:
            logits = torch.cat([logits, self._fed(cache, mask, text)])
        return logits.float().log_softmax(-1)

    def _fed(self, cache: Any, mask: Tensor, text: Text) -> Tensor:
        """Logits at the fed tokens, read through copies of the prompt's cache."""
        cache.batch_repeat_interleave(text.copies)
        mask = mask.repeat_interleave(text.copies, dim=0)
        places = mask.sum(1, keepdim=True) + torch.arange(text.ids.shape[1], device=mask.device)
        if self.axes:  # text goes on behind the image's grid, alike in all axes
            behind = self.model.model.rope_deltas.to(places.device)
            places = (places + behind.repeat_interleave(text.copies, dim=0)).expand(3, -1, -1)
        output = self.model(
            input_ids=text.ids,
            attention_mask=torch.cat([mask, text.fed.to(mask.dtype)], dim=1),
            position_ids=places,
            use_cache=True,
            **{cache_name(self.model): cache},
        )
        return output.logits[text.fed.to(output.logits.device)]
