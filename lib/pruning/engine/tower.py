"""States and attention of the vision tower, one row a visual token.

A method says what it needs (`watch_hidden`, `watch_projections`); the hooks write it into the
record of the call, and the functions below read it for the images of a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .images import ImageTokens
from .release import arguments
from .vision import VisionRecord

if TYPE_CHECKING:
    from ..families import Family, Layout, TowerAttention
    from .passes import Current


def watch_hidden(pruner: Any, layers: Iterable[int]) -> None:
    """Record these hidden states of the tower (0: what enters its first block)."""
    wanted, blocks = sorted(set(layers)), pruner.family.blocks()
    current: Current = pruner._current

    def entering(layer: int) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            if current.record is not None:
                states = args[0] if args else kwargs["hidden_states"]
                current.record.hidden[layer] = states

        return hook

    def leaving(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if current.record is not None:
            current.record.hidden[len(blocks)] = output if isinstance(output, Tensor) else output[0]

    def answered(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        """A tower that answers from a memo runs no block, but says its hidden states."""
        states = getattr(output, "hidden_states", None)
        if current.record is not None and states is not None:
            for layer in wanted:
                current.record.hidden.setdefault(layer, states[layer])

    for layer in wanted:
        if layer < len(blocks):
            pruner.hooks.add(blocks[layer], entering(layer), before=True)
        else:
            pruner.hooks.add(blocks[-1], leaving, before=False)
    pruner.hooks.add(pruner.family.tower, answered, before=False)


def watch_projections(pruner: Any, block: int, names: str = "qk") -> TowerAttention:
    """Record queries, keys or values (of `"qkv"`) of one attention block of the tower."""
    attention = pruner.family.attention(block)
    current: Current = pruner._current
    sources = {"q": attention.query, "k": attention.key, "v": attention.value}

    def keep(name: str) -> Callable:
        part = sources[name].part

        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
            if current.record is not None:
                current.record.projections[block, name] = (
                    output if part is None else output[..., part]
                )

        return hook

    for name in names:
        pruner.hooks.add(sources[name].module, keep(name), before=False)
    if attention.context:

        def called(module: nn.Module, args: tuple, kwargs: dict) -> None:
            if current.record is not None:
                named = arguments(module, args, kwargs)
                found = {name: named.get(name) for name in attention.context}
                current.record.context[block] = found

        pruner.hooks.add(attention.module, called, before=True)
    return attention


def layouts_of(family: Family, record: VisionRecord) -> list[Layout] | None:
    """The layouts of a record's images, worked out once."""
    if "layouts" not in record.extra:
        record.extra["layouts"] = family.layouts(record)
    return record.extra["layouts"]


def layouts_at(images: ImageTokens, family: Family) -> list[Layout] | None:
    """The layout of each image of a group."""
    layouts = layouts_of(family, images.vision)
    if layouts is None:
        return None
    return [layouts[images.prefill.encoded(ordinal)] for ordinal in images.ordinals]


def patch_rows(family: Family, states: Tensor) -> Tensor:
    """`(rows, class + patches, ...)` without what the projector does not read."""
    return family.patch_rows(states)


def of_tokens(images: ImageTokens, family: Family, per_patch: Tensor) -> Tensor:
    """A value a patch, `(rows, patches, ...)`, as one a visual token `(n, N, ...)`.

    Tokens made of several patches get their mean, or the mix of them that the layout names; a
    separator the value of the token before it.
    """
    layouts = layouts_of(family, images.vision)
    if layouts is None:
        return images.before(images.of_vision(per_patch))
    flat = per_patch.flatten(0, 1)
    chosen = [_filled(layouts[images.prefill.encoded(ordinal)]) for ordinal in images.ordinals]
    source = torch.stack([layout.source for layout in chosen]).to(flat.device)
    weights = None
    if chosen[0].weights is not None:
        weights = torch.stack([layout.weights for layout in chosen])
    return images.before(mixed(flat[source], weights))


def mixed(gathered: Tensor, weights: Tensor | None) -> Tensor:
    """Values of the g patches of each token, `(n, N, g, ...)`, as one a token `(n, N, ...)`.

    Their mean, or with `weights` `(n, N, g)` the sum of their shares.
    """
    if gathered.shape[2] == 1:
        return gathered[:, :, 0]
    if weights is None:
        return gathered.float().mean(2).to(gathered.dtype)
    weights = weights.to(gathered.device, torch.float32)
    weights = weights.reshape(*weights.shape, *[1] * (gathered.ndim - 3))
    return (gathered.float() * weights).sum(2).to(gathered.dtype)


def _filled(layout: Layout) -> Layout:
    """Separators point to the patches of the token before them (the first to the one after)."""
    real = layout.source[:, 0] >= 0
    place = torch.arange(len(layout.source))
    last = torch.where(real, place, -1).cummax(0).values
    where = torch.where(last >= 0, last, int(real.long().argmax()))
    weights = None if layout.weights is None else layout.weights[where]
    return layout._replace(source=layout.source[where], weights=weights)


def separators(images: ImageTokens, family: Family) -> Tensor | None:
    """Bool `(n, N)`, True for separators; None if there are none."""
    layouts = layouts_at(images, family)
    if layouts is None:
        return None
    found = torch.stack([one.source[:, 0] < 0 for one in layouts]).to(images.columns.device)
    return images.before(found) if bool(found.any()) else None


def hidden_states(images: ImageTokens, family: Family, layer: int) -> Tensor:
    """Hidden state `layer` of the tower at the visual tokens, `(n, N, D)`."""
    return of_tokens(images, family, patch_rows(family, images.vision.hidden[layer]))


def feature_layers(family: Family) -> list[int]:
    """The hidden states of the tower that the projector reads, side by side."""
    named = getattr(family.config, "vision_feature_layer", None)
    if named is None or isinstance(named, int):
        return [family.feature_layer()]
    return [layer if layer >= 0 else len(family.blocks()) + 1 + layer for layer in named]


def features(record: VisionRecord, family: Family, *, first: bool = False) -> Tensor:
    """What the projector reads of every patch, `(rows, patches, D)`; first: of the class token.

    The layers must be watched: `watch_hidden(pruner, feature_layers(family))`.
    """
    states = [record.hidden[layer] for layer in feature_layers(family)]
    parts = [one[:, :1] if first else patch_rows(family, one) for one in states]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def received(
    images: ImageTokens,
    family: Family,
    attention: TowerAttention,
    block: int,
    *,
    heads: str = "mean",
) -> Tensor:
    """What each visual token receives of the tower's attention in a block, float32 `(n, N)`."""
    weights = attended(images.vision, family, attention, block, heads=heads)
    return of_tokens(images, family, patch_rows(family, weights))


def attended(
    record: VisionRecord, family: Family, attention: TowerAttention, block: int, *,
    heads: str = "mean",
) -> Tensor:  # fmt: skip
    """What every key of the tower receives of the attention in a block, float32 `(rows, keys)`.

    From the class token where there is one (softmax over all keys, its own included), else the mean
    over all queries of the image. heads: "mean" or "sum" over the heads.
    """
    key = f"received {block} {heads} {attention.heads} {attention.scale}"
    if key not in record.extra:
        by_head = family.received(record, block, attention)  # (rows, heads, tokens)
        record.extra[key] = by_head.sum(-2) if heads == "sum" else by_head.mean(-2)
    return record.extra[key]


def attention_weights(queries: Tensor, keys: Tensor, attention: TowerAttention) -> Tensor:
    """Softmaxed attention `(rows, heads, queries, keys)` of projections `(rows, tokens, width)`."""
    q = queries.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
    k = keys.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
    return (q @ k.transpose(2, 3) * attention.scale).float().softmax(-1)
