"""The key/value cache after pruning: layers of different lengths, dropped tokens remembered.

Everything a caller says about positions is in terms of the sequence the model was given: `crop`,
`get_seq_length` and attention masks count dropped tokens, too.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from .release import crops_to_a_size


@dataclass(frozen=True)
class Segment:
    """What the layers from `layer` to the next segment's hold of the first `seen` tokens.

    columns: `(batch, held)` int64, the place of each held key in the sequence that the model was
        given, -1 for the filling of rows that keep fewer; None: all `seen` tokens, in order.
    filled: True if some of `columns` are -1, so that a mask is always needed.
    hidden: `(batch, held)` bool, True for keys that mask mode hides; None: none are.
    shift: `(batch, 1)`, how far later positions move to the front; None: they stay.

    Keys beyond these belong to the tokens `seen`, `seen + 1`, ... in order.
    """

    layer: int
    seen: int
    columns: Tensor | None = None
    filled: bool = False
    hidden: Tensor | None = None
    shift: Tensor | None = None

    @property
    def held(self) -> int:
        """Keys of the first `seen` tokens that the layers hold."""
        return self.seen if self.columns is None else self.columns.shape[1]

    def given(self, held: int) -> int:
        """Tokens the model was given when the layers hold `held` keys."""
        return self.seen + held - self.held

    def visible(self, held: int, mask: Tensor | None) -> Tensor | None:
        """Which of the first `held` keys may be attended to, bool `(batch, held)`; None: all.

        mask: the caller's attention mask, `(batch, tokens given)` bool, or None.
        """
        first = None if self.columns is None or not self.filled else self.columns >= 0
        if mask is not None:
            if self.columns is None:
                own = mask[:, : self.seen]
            else:
                own = mask.gather(1, self.columns.clamp(min=0).to(mask.device))
            first = own if first is None else own & first.to(own.device)
        if self.hidden is not None:
            first = ~self.hidden if first is None else first & ~self.hidden.to(first.device)
        if first is None:
            return None
        later = held - self.held
        if not later:
            return first
        rest = (
            first.new_ones(len(first), later)
            if mask is None
            else mask[:, self.seen : self.seen + later]
        )
        return torch.cat([first, rest.to(first.device)], 1)

    def of_rows(self, function: Callable[[Tensor], Tensor]) -> Segment:
        """The same after the batch was reordered, repeated or cut by `function`."""
        changed = {
            name: None if (value := getattr(self, name)) is None else function(value)
            for name in ("columns", "hidden", "shift")
        }
        return dataclasses.replace(self, **changed)

    def cut(self, target: int) -> tuple[Segment, Tensor | None]:
        """Without the tokens from `target` on, and which of the held keys stay.

        The second value is `(batch, left)`, indices into the held keys; None: the first `left`.
        """
        if self.columns is None:
            hidden = None if self.hidden is None else self.hidden[:, :target]
            return dataclasses.replace(self, seen=target, hidden=hidden), None
        stays = (self.columns >= 0) & (self.columns < target)
        counts = stays.sum(1)
        left = int(counts.max())
        # a stable sort moves what goes to the front, so that rows end together
        index = torch.sort(stays.to(torch.uint8), dim=1, stable=True).indices
        index = index[:, stays.shape[1] - left :]
        columns = torch.where(stays, self.columns, -1).gather(1, index)
        hidden = None if self.hidden is None else self.hidden.gather(1, index)
        filled = bool((columns < 0).any())
        return dataclasses.replace(
            self, seen=target, columns=columns, filled=filled, hidden=hidden
        ), index


@dataclass(frozen=True)
class PrunedState:
    """The segments of a pruned cache, by layer, and the pruner that made them."""

    segments: tuple[Segment, ...]
    owner: weakref.ref[Any]

    def at(self, layer: int) -> Segment | None:
        """The segment that a layer belongs to, None before the first pruned layer."""
        found = None
        for segment in self.segments:
            if segment.layer <= layer:
                found = segment
        return found

    def of_rows(self, function: Callable[[Tensor], Tensor]) -> PrunedState:
        return dataclasses.replace(self, segments=tuple(s.of_rows(function) for s in self.segments))


class PrunedCache(DynamicCache):
    """A `DynamicCache` whose layers hold different numbers of positions.

    A pruner turns the model's own cache into one in place. Every method of the Cache API keeps its
    meaning in terms of the tokens that the model was given, so `generate` counts right, several
    turns work, beam search reorders the masks together with the keys, and assisted decoding crops.
    `layers[i].keys` show what each layer really holds.

    Raises `RuntimeError` if it is extended outside its pruner's with-block.
    """

    visual: PrunedState | None = None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens the model was given (layer 0, what `generate` asks for), else positions held."""
        held = super().get_seq_length(layer_idx)
        if layer_idx == 0 and self.visual is not None:
            segment = self.visual.at(0)
            return held if segment is None else segment.given(held)
        return held

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.visual is not None:
            owner = self.visual.owner()
            if owner is None or not owner.active:
                raise RuntimeError(
                    "this cache was pruned inside a with-block that has ended; decode inside it, "
                    "or start from a new prompt"
                )
            if not owner.in_pass:
                raise RuntimeError(
                    "a pruned cache needs the model's own forward; call the model (or its inner "
                    "model) instead of its language model or a layer"
                )
        return super().update(*args, **kwargs)

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the last tokens that the model was given (a negative number, as upstream).

        Layers lose those of them that they hold; a crop into the image leaves each row with the
        kept tokens in front of the cut.
        """
        if self.visual is None:
            return super().crop(tokens_to_remove)
        given = self.get_seq_length()
        if tokens_to_remove > 0:
            if not crops_to_a_size():
                raise ValueError(
                    f"crop takes the number of tokens to remove as a negative integer, got "
                    f"{tokens_to_remove}"
                )
            tokens_to_remove = min(0, tokens_to_remove - given)
        target = max(0, given - abs(tokens_to_remove))
        segments, index = [], {}
        for segment in self.visual.segments:
            if target < segment.seen:
                segment, index[segment.layer] = segment.cut(target)
            segments.append(segment)
        for number, layer in enumerate(self.layers):
            if not layer.get_seq_length():
                continue
            segment = PrunedState(tuple(segments), self.visual.owner).at(number)
            if segment is None:
                _keep_first(layer, target)
            elif (chosen := index.get(segment.layer)) is not None:
                _keep_at(layer, chosen)
            else:
                _keep_first(layer, segment.held + target - segment.seen)
        self.visual = PrunedState(tuple(segments), self.visual.owner)

    def reset(self) -> None:
        """Forget everything, the pruning included."""
        super().reset()
        for layer in self.layers:  # up to 5.17 upstream zeroes them, at the pruned length
            layer.keys = layer.values = None
            layer.is_initialized = False
        self.visual = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._rows(lambda rows: rows.index_select(0, beam_idx.to(rows.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._rows(lambda rows: rows.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._rows(lambda rows: rows[indices.to(rows.device)])

    def _rows(self, function: Callable[[Tensor], Tensor]) -> None:
        if self.visual is not None:
            self.visual = self.visual.of_rows(function)


def _keep_first(layer: Any, count: int) -> None:
    layer.keys, layer.values = layer.keys[:, :, :count], layer.values[:, :, :count]


def _keep_at(layer: Any, index: Tensor) -> None:
    place = index.to(layer.keys.device)[:, None, :, None]
    for name in ("keys", "values"):
        states = getattr(layer, name)
        setattr(
            layer, name, states.gather(2, place.expand(-1, states.shape[1], -1, states.shape[-1]))
        )


def cache_bytes(cache: Any) -> list[int]:
    """Bytes of keys and values that each layer of `cache` holds."""
    return [
        sum(t.numel() * t.element_size() for t in (layer.keys, layer.values) if t is not None)
        for layer in cache.layers
    ]


def extend(
    before: PrunedState | None, made: Sequence[Segment], owner: weakref.ref[Any]
) -> PrunedState:
    """The state after a pass: its segments behind those of the turns before."""
    layers = {segment.layer for segment in made}
    kept = [] if before is None else [s for s in before.segments if s.layer not in layers]
    return PrunedState(tuple(sorted([*kept, *made], key=lambda s: s.layer)), owner)
