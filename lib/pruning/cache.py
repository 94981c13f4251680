"""The key/value cache after pruning: layers of different lengths, dropped tokens remembered."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache


@dataclass
class PrunedState:
    """What the layers from `layer` on must know to attend over a pruned cache.

    `key_mask` is `(batch, cached)` and False where a cached key must not be attended to (padding,
    tokens hidden by mask mode, left filling of ragged rows); None when every key is visible.
    `seen` counts the tokens the model was given, dropped ones included: the next position.
    """

    layer: int
    seen: int
    cached: int
    key_mask: torch.Tensor | None
    owner: weakref.ref[Any]

    def past_mask(self, length: int) -> torch.Tensor | None:
        """The mask of the first `length` cached keys (a cache may have been cropped since)."""
        if length > self.cached:
            raise RuntimeError(
                f"the cache holds {length} positions at layer {self.layer} but pruning recorded "
                f"{self.cached}: it was extended outside the pruner's with-block"
            )
        return None if self.key_mask is None else self.key_mask[:, :length]


class PrunedCache(DynamicCache):
    """A `DynamicCache` whose layers hold different numbers of positions.

    A pruner turns the model's own cache into one in place, so that `generate` keeps counting the
    tokens it passed in (positions and multi-turn prompts stay right) and beam search reorders the
    masks together with the keys. `layers[i].keys` show what each layer really holds.
    """

    visual: PrunedState

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens seen (layer 0, what `generate` asks for), else positions held by that layer."""
        if layer_idx == 0 and self.visual.layer == 0:
            held = super().get_seq_length(0)
            return self.visual.seen - (self.visual.cached - held)  # the difference: a crop
        return super().get_seq_length(layer_idx)

    def update(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        owner = self.visual.owner()
        if owner is None or not owner.active:
            raise RuntimeError(
                "this cache was pruned inside a with-block that has ended; decode inside it, "
                "or start from a new prompt"
            )
        return super().update(*args, **kwargs)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._select(lambda mask: mask.index_select(0, beam_idx.to(mask.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._select(lambda mask: mask.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self._select(lambda mask: mask[indices.to(mask.device)])

    def _select(self, function) -> None:
        if self.visual.key_mask is not None:
            self.visual.key_mask = function(self.visual.key_mask)


def cache_bytes(cache: Any) -> list[int]:
    """Bytes of keys and values that each layer of `cache` holds."""
    return [
        sum(t.numel() * t.element_size() for t in (layer.keys, layer.values) if t is not None)
        for layer in cache.layers
    ]
