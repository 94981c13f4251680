"""Queries and keys of one language layer, and the rows of its attention a method needs.

Only these rows are computed, from what the layer's projections made anyway: the attention
implementation of the model stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .release import given_cache
from .sequence import take_rotary

if TYPE_CHECKING:
    from ..families import Family


@dataclass(eq=False)
class LayerAttention:
    """What one attention layer computed for a pass, as far as a method asked for it.

    queries: `(batch, heads, positions, width)` before the rotary embedding. keys: the same with it,
    those of earlier passes included. held: how many of the keys are of earlier passes. rotate:
    applies the embedding to queries at `(batch, q)` positions.
    """

    queries: Tensor
    keys: Tensor
    scaling: float
    held: int
    rotate: Callable[[Tensor, Tensor], Tensor]
    valid: Tensor | None
    past_valid: Tensor | None

    def queries_at(self, places: Tensor) -> Tensor:
        """Rotated queries `(batch, heads, q, width)` of the positions `places` `(batch, q)`."""
        places = places.to(self.queries.device)
        index = places[:, None, :, None].expand(
            -1, *self.queries.shape[1:2], -1, self.queries.shape[3]
        )
        return self.rotate(self.queries.gather(2, index), places)

    def rows(self, places: Tensor) -> Tensor:
        """Attention of the query positions `places` `(batch, q)` over the new positions.

        Averaged over heads, softmaxed over all keys a query may see, float32
        `(batch, q, positions)`; a row sums to at most 1, the rest goes to earlier positions.
        """
        queries = self.queries_at(places)
        batch, heads, asked, width = queries.shape
        groups = self.keys.shape[1]
        queries = queries.view(batch, groups, heads // groups, asked, width)
        logits = (queries @ self.keys[:, :, None].transpose(-1, -2)).float() * self.scaling
        visible = self._visible(places.to(logits.device))
        weights = logits.masked_fill(~visible[:, None, None], float("-inf")).softmax(-1)
        return weights.flatten(1, 2).mean(1)[..., self.held :]

    def _visible(self, places: Tensor) -> Tensor:
        """Which keys each of these queries sees, bool `(batch, q, keys)`."""
        length = self.keys.shape[2] - self.held
        place = torch.arange(-self.held, length, device=places.device)
        visible = place <= places[..., None]
        if self.valid is not None:
            visible[..., self.held :] &= self.valid.to(visible.device)[:, None]
        if self.held and self.past_valid is not None:
            visible[..., : self.held] &= self.past_valid.to(visible.device)[:, None]
        return visible


class Watch:
    """Hooks that capture the attention of one language layer; read it with `taken`."""

    def __init__(self, pruner: Any, layer: int, names: str = "qk") -> None:
        """names: "q", "k" or both.

        Raises `TypeError` if the layer has no projections to read.
        """
        self.pruner, self.layer = pruner, layer
        family: Family = pruner.family
        attention = family.layers[layer].self_attn
        for name in names:
            module = getattr(attention, f"{name}_norm", None) or getattr(
                attention, f"{name}_proj", None
            )
            if not isinstance(module, nn.Module):
                raise TypeError(
                    f"queries and keys of {type(attention).__name__} cannot be read: it has no "
                    f"{name}_proj"
                )
            pruner.hooks.add(module, self._capture(name), before=False)
        pruner.hooks.add(attention, self._attended, before=False)

    def _capture(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
            pass_ = self.pruner._current.pass_
            if pass_ is not None and pass_.groups:
                pass_.attention.setdefault(self.layer, {})[name] = output

        return hook

    def _attended(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        pass_ = self.pruner._current.pass_
        if pass_ is None or not pass_.groups:
            return
        made = pass_.attention[self.layer]
        forward = self.pruner._forward
        pass_.attention[self.layer] = forward.attention_of(module, made, kwargs, pass_)

    def taken(self, pass_: Any) -> Any:
        """The `LayerAttention` of this pass."""
        return pass_.attention[self.layer]


def from_projections(
    family: Family, module: nn.Module, queries: Tensor, keys: Tensor, rotary: tuple[Tensor, Tensor],
    valid: Tensor | None = None,
) -> LayerAttention:  # fmt: skip
    """The attention of a layer without a cache, from the outputs of its projections.

    queries, keys: `(batch, positions, heads * width)`; valid: bool `(batch, positions)`.
    """
    made = {"q": queries, "k": keys}
    return layer_attention(
        family, module, made, {"position_embeddings": rotary}, valid, lambda held: None
    )


def layer_attention(
    family: Family, module: nn.Module, made: dict[str, Tensor], kwargs: dict, valid: Tensor | None,
    past_valid: Callable[[int], Tensor | None],
) -> LayerAttention:  # fmt: skip
    """Put together what the projections made; earlier keys come from the layer's cache.

    valid: bool `(batch, positions)` of the new positions. past_valid: called with the number of
    held keys, says which of them may be seen.
    """
    cos, sin = kwargs["position_embeddings"]

    def by_head(states: Tensor) -> Tensor:
        return states.view(*states.shape[:2], -1, module.head_dim).transpose(1, 2)

    def rotate(states: Tensor, places: Tensor) -> Tensor:
        tables = take_rotary(cos, places), take_rotary(sin, places)
        return family.rotate(module, states, states, *tables)[0]

    queries = by_head(made["q"])
    length, cache, held = queries.shape[2], given_cache(kwargs), 0
    if cache is not None:  # the layer has just stored its rotated keys, behind earlier ones
        keys = cache.layers[module.layer_idx].keys.to(queries.device)
        held = keys.shape[2] - length
    else:
        keys = by_head(made["k"])
        keys = family.rotate(module, keys, keys, cos, sin)[0]
    seen = past_valid(held) if held else None
    return LayerAttention(queries, keys, module.scaling, held, rotate, valid, seen)
