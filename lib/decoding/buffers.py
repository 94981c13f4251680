"""What a decoding step reads and writes: preallocated keys and values at fixed addresses.

Each layer has its own length, as pruning leaves it; layers of one length share a mask and a place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..pruning import PrunedCache
from ..pruning.engine.cache import Segment

#: Buffers grow in steps of this many positions, so that prompts of similar length share a graph.
BUCKET = 64


@dataclass
class Slot:
    """Keys and values of one layer, `(batch, kv_heads, capacity, head_dim)`, written in place."""

    keys: Tensor
    values: Tensor
    place: Tensor  # (1,) int64: where the next token goes; shared by the layers of one group

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.keys.index_copy_(2, self.place, keys)
        self.values.index_copy_(2, self.place, values)
        return self.keys, self.values


@dataclass
class Buffers:
    """Everything a decoding step reads and writes, at fixed addresses."""

    slots: list[Slot]
    places: list[Tensor]  # per group of layers with one length
    masks: list[Tensor]  # per group: (batch, 1, 1, capacity), 0 or -inf
    group_of: list[int]  # per layer
    token: Tensor  # (batch, 1)
    positions: Tensor  # (batch, 1)
    step: Tensor  # (1,)
    out: Tensor  # (batch, new tokens)
    shifts: list[Tensor | None]  # per group: (batch, 1), how far positions moved to the front
    graph: Any = field(default=None)

    def rotary(self, embedding: Any, states: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The rotary tables of the token at work, one pair a group."""
        plain = embedding(states, self.positions)
        return [
            plain if shift is None else embedding(states, self.positions - shift)
            for shift in self.shifts
        ]

    def counters(self) -> list[Tensor]:
        """What a step changes besides the slots' next position, to undo a warm-up."""
        return [self.token, self.positions, self.step, self.out, *self.places, *self.masks]


class BufferPool:
    """The buffers of the last shape; a batch of 32 holds gigabytes, so only one is kept."""

    def __init__(self) -> None:
        self._key: tuple | None = None
        self._buffers: Buffers | None = None

    def clear(self) -> None:
        """Give the memory back."""
        self._key = self._buffers = None

    def fill(self, cache: Any, attention_mask: Tensor | None, new: int) -> Buffers:
        """Move a prefill's keys and values into static buffers for `new` tokens more.

        attention_mask: `(batch, prompt)` bool, None if nothing is padded.
        """
        state = cache.visual if isinstance(cache, PrunedCache) else None
        kinds = [
            (layer.keys.shape[2], None if state is None else state.at(index))
            for index, layer in enumerate(cache.layers)
        ]
        groups: list[tuple[int, Segment | None]] = []
        group_of = []
        for kind in kinds:
            same = [i for i, (n, s) in enumerate(groups) if n == kind[0] and s is kind[1]]
            group_of.append(same[0] if same else len(groups))
            groups += [] if same else [kind]
        capacities = [-(-(length + new) // BUCKET) * BUCKET for length, _ in groups]
        like = cache.layers[0].keys
        shifts = [None if s is None else s.shift for _, s in groups]
        moved = tuple(shift is not None for shift in shifts)
        key = (like.shape[0], new, tuple(group_of), tuple(capacities), moved, like.dtype)
        if key != self._key:
            self.clear()
            self._key, self._buffers = key, _allocate(cache, new, capacities, group_of, moved)
        buffers = self._buffers
        for own, shift in zip(buffers.shifts, shifts):
            if own is not None:
                own.copy_(shift)
        for (length, segment), place, mask in zip(groups, buffers.places, buffers.masks):
            place.fill_(length)
            mask.fill_(float("-inf"))
            mask[..., :length] = 0
            visible = attention_mask
            if segment is not None:
                visible = segment.visible(length, attention_mask)
            if visible is not None:
                mask[:, 0, 0, :length].masked_fill_(~visible.bool(), float("-inf"))
        _copy(buffers, cache)
        return buffers


def _copy(buffers: Buffers, cache: Any) -> None:
    """All keys and values at once: a call a layer would cost more than the copies."""
    targets, sources = [], []
    for slot, layer in zip(buffers.slots, cache.layers):
        length = layer.keys.shape[2]
        targets += [slot.keys[:, :, :length], slot.values[:, :, :length]]
        sources += [layer.keys, layer.values]
    torch._foreach_copy_(targets, sources)


def _allocate(
    cache: Any, new: int, capacities: list[int], group_of: list[int], moved: tuple[bool, ...]
) -> Buffers:
    like = cache.layers[0].keys
    batch = like.shape[0]

    def integer(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.int64, device=like.device)

    places = [integer(1) for _ in capacities]
    slots = []
    for layer, group in zip(cache.layers, group_of):
        _, heads, _, width = layer.keys.shape
        shape = (batch, heads, capacities[group], width)
        slots.append(Slot(like.new_zeros(shape), like.new_zeros(shape), places[group]))
    masks = [like.new_zeros(batch, 1, 1, capacity) for capacity in capacities]
    tokens = [integer(batch, 1), integer(batch, 1), integer(1), integer(batch, new)]
    shifts = [integer(batch, 1) if own else None for own in moved]
    return Buffers(slots, places, masks, group_of, *tokens, shifts)
