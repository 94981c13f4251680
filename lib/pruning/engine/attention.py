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
    from .passes import Pass


#: the last position of every row, where it is what a method asks for and sees every key
LAST = slice(-1, None)


@dataclass(eq=False)
class LayerAttention:
    """What one attention layer computed for a pass, as far as a method asked for it.

    queries: `(batch, heads, positions, width)` before the rotary embedding; a function of places
    `(batch, q)`, or `LAST`, where only a few are wanted. keys: the same with it, those of earlier
    passes included, a head for each group of queries. values: `(batch, groups, positions, width)`
    of the new positions, if asked for. held: how many of the keys are of earlier passes. rotate:
    applies the embedding to queries at `(batch, q)` positions, or `LAST`.
    """

    queries: Tensor | Callable[[Tensor | slice], Tensor] | None
    keys: Tensor
    scaling: float
    held: int
    rotate: Callable[[Tensor, Tensor | slice], Tensor]
    valid: Tensor | None
    past_valid: Tensor | None
    values: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the layer computes."""
        return self.keys.device

    @property
    def new_keys(self) -> Tensor:
        """The rotated keys of this pass, `(batch, groups, positions, width)`."""
        return self.keys[:, :, self.held :]

    def last(self, pass_: Pass) -> Tensor | slice:
        """The places `(batch, 1)` of each row's last prompt token; `LAST` where it sees all keys.

        The slice spares what looks places up and hides keys.
        """
        if pass_.drafts or self.valid is not None or (self.held and self.past_valid is not None):
            return pass_.last(self.device)[:, None]
        return LAST

    def queries_at(self, places: Tensor | slice, *, rotated: bool = True) -> Tensor:
        """Queries `(batch, heads, q, width)` of the positions `places` `(batch, q)`."""
        places = places if isinstance(places, slice) else places.to(self.device)
        if callable(self.queries):
            found = self.queries(places)
        else:
            found = gather_heads(self.queries, places)
        return self.rotate(found, places) if rotated else found

    def weights(self, places: Tensor | slice) -> Tensor:
        """Attention of the query positions `places` `(batch, q)` over the new positions, by head.

        Softmaxed over all keys a query may see, float32 `(batch, heads, q, positions)`; a row sums
        to at most 1, the rest goes to earlier positions. Padding, which sees nothing, gets zeros.
        places: or `LAST`, as `last` gives them.
        """
        queries = self.queries_at(places)
        batch, heads, asked, width = queries.shape
        groups = self.keys.shape[1]
        queries = queries.view(batch, groups, heads // groups, asked, width)
        logits = (queries @ self.keys[:, :, None].transpose(-1, -2)).float() * self.scaling
        if isinstance(places, slice):
            return logits.softmax(-1).flatten(1, 2)[..., self.held :]
        visible = self._visible(places.to(logits.device))
        weights = logits.masked_fill(~visible[:, None, None], float("-inf")).softmax(-1)
        weights = weights.masked_fill(~visible.any(-1)[:, None, None, :, None], 0.0)
        return weights.flatten(1, 2)[..., self.held :]

    def rows(self, places: Tensor | slice) -> Tensor:
        """`weights` averaged over heads, `(batch, q, positions)`."""
        return self.weights(places).mean(1)

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
        """names: which of queries, keys and values (of `"qkv"`); keys are always needed.

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
                    f"queries, keys and values of {type(attention).__name__} cannot be read: it "
                    f"has no {name}_proj"
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


def ahead(pass_: Any, family: Family) -> LayerAttention:
    """The attention the next layer would compute if the stage at work dropped nothing.

    Its input norm and projections are applied to what enters it: one product for all keys, and one
    for each query that is asked for.
    """
    upcoming, entering = pass_.ahead, pass_.entering
    module = upcoming.layer.self_attn
    states = upcoming.layer.input_layernorm(entering)

    def project(name: str, given: Tensor) -> Tensor:
        made = getattr(module, f"{name}_proj")(given)
        norm = getattr(module, f"{name}_norm", None)
        if norm is not None:  # by head, as in Qwen3
            made = norm(made.unflatten(-1, (-1, module.head_dim))).flatten(2)
        return by_head(made, module.head_dim)

    def queries(places: Tensor | slice) -> Tensor:
        if isinstance(places, slice):
            return project("q", states[:, places])
        index = places[..., None].expand(-1, -1, states.shape[-1])
        return project("q", states.gather(1, index))

    cos, sin = upcoming.rotary
    keys = project("k", states)
    keys = family.rotate(module, keys, keys, cos, sin)[1]
    held = 0
    if upcoming.keys is not None:
        held = upcoming.keys.shape[2]
        keys = torch.cat([upcoming.keys.to(keys.device), keys], 2)
    rotate = _rotation(family, module, cos, sin)
    return LayerAttention(
        queries, keys, module.scaling, held, rotate, pass_.visible, upcoming.past_valid
    )


def by_head(states: Tensor, width: int) -> Tensor:
    """`(batch, positions, heads * width)` as `(batch, heads, positions, width)`."""
    return states.view(*states.shape[:2], -1, width).transpose(1, 2)


def gather_heads(states: Tensor, places: Tensor | slice) -> Tensor:
    """`(batch, heads, positions, width)` at `places` `(batch, q)`."""
    if isinstance(places, slice):
        return states[:, :, places]
    index = places.to(states.device)[:, None, :, None]
    return states.gather(2, index.expand(-1, states.shape[1], -1, states.shape[3]))


def _rotation(
    family: Family, module: nn.Module, cos: Tensor, sin: Tensor
) -> Callable[[Tensor, Tensor | slice], Tensor]:
    def rotate(states: Tensor, places: Tensor | slice) -> Tensor:
        if isinstance(places, slice):
            tables = cos[..., places, :], sin[..., places, :]
            return family.rotate(module, states, states, *tables)[0]
        tables = take_rotary(cos, places), take_rotary(sin, places)
        return family.rotate(module, states, states, *tables)[0]

    return rotate


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
    parts = {name: by_head(states, module.head_dim) for name, states in made.items()}
    length, cache, held = cos.shape[-2], given_cache(kwargs), 0
    if cache is not None:  # the layer has just stored its rotated keys, behind earlier ones
        keys = cache.layers[module.layer_idx].keys.to(cos.device)
        held = keys.shape[2] - length
    else:
        keys = family.rotate(module, parts["k"], parts["k"], cos, sin)[1]
    seen = past_valid(held) if held else None
    rotate = _rotation(family, module, cos, sin)
    queries, values = parts.get("q"), parts.get("v")
    return LayerAttention(queries, keys, module.scaling, held, rotate, valid, seen, values)
