"""What the engine asks of a model family; one subclass a family, found by its model type."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..engine.received import received
from ..engine.vision import VisionRecord

_REGISTRY: dict[str, type[Family]] = {}


class Projection(NamedTuple):
    """Where one of queries, keys or values of a tower's attention block comes from.

    module: its output holds them; part: the slice of the last dimension, None for all of it.
    """

    module: nn.Module
    part: slice | None = None


@dataclass(frozen=True)
class TowerAttention:
    """An attention block of the vision tower: projections, heads and the scale of its logits."""

    query: Projection
    key: Projection
    value: Projection
    heads: int
    scale: float
    #: the block itself, and what it is called with that its attention depends on
    module: nn.Module | None = None
    context: tuple[str, ...] = ()


class Layout(NamedTuple):
    """How the visual tokens of one image come from the tower's patches.

    source: `(N, g)` int64, rows of the flattened patches that each token is made of, -1 for a
        separator (a newline between rows), which is made of none.
    grid: rows and columns of the raster the tokens (without separators) form; None: no one raster.
    tiles: `(N,)` int64, the tile each token belongs to, counted over the tiles (or frames) of the
        record; -1 for a separator.
    weights: `(N, g)`, the share of each patch where a token is no plain mean of them.
    """

    source: Tensor
    grid: tuple[int, int] | None
    tiles: Tensor
    weights: Tensor | None = None


class Family:
    """The parts of a model, and what is particular about its visual tokens.

    model: the outer model, or its inner one without a head (see `resolve`).

    Attributes: inner (runs tower and language model), language (its decoder), layers, tower,
    projector (the module whose output are the visual tokens; None if the tower does it).
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    title: ClassVar[str] = ""
    #: what the prompt can hold: {modality: (attribute of the config, method that encodes it)}
    modalities: ClassVar[Mapping[str, tuple[str, str]]] = {
        "image": ("image_token_id", "get_image_features")
    }
    #: True if position ids have one row: tokens can then be renumbered
    plain_positions: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for kind in cls.model_types:
            _REGISTRY[kind] = cls

    def __init__(self, model: nn.Module, inner: nn.Module) -> None:
        self.model, self.inner, self.config = model, inner, inner.config
        self.model_type: str = self.config.model_type
        self.language = self.find_language()
        self.layers = self.language.layers
        self.tower = self.find_tower()
        self.projector = self.find_projector()

    def find_language(self) -> nn.Module:
        """The decoder, with `layers`, `norm` and `rotary_emb`."""
        return self.inner.language_model

    def find_tower(self) -> nn.Module:
        """The vision tower."""
        return self.inner.vision_tower

    def find_projector(self) -> nn.Module | None:
        """The module whose output are the visual tokens; None if the tower does it."""
        return getattr(self.inner, "multi_modal_projector", None)

    # ---- the prompt ---------------------------------------------------------------------------

    def placeholders(self, modality: str, ids: Tensor | None, embeds: Tensor | None) -> Tensor:
        """Bool `(batch, positions)`, True for the placeholders of a modality."""
        token = getattr(self.config, self.modalities[modality][0])
        if ids is not None:
            return ids == token
        embedding = self.inner.get_input_embeddings()
        marker = embedding(torch.tensor(token, device=embeds.device)).to(embeds.dtype)
        return (embeds == marker).all(-1)

    def lengths(self, features: Any, record: VisionRecord) -> list[int]:
        """Visual tokens of each image (tile, frame) that has a budget of its own.

        features: what a method of `modalities` returned, or that with whole prompts repeated;
        record: of that call, or, for features from outside of the with-block, of nothing but what
        the model was called with.
        """
        pooled = features.pooler_output
        if isinstance(pooled, Tensor):
            return [pooled.shape[1]] * pooled.shape[0]
        return [len(tokens) for tokens in pooled]

    def tokens_each(self) -> int | None:
        """Visual tokens of an image, if all images have as many; None if they differ."""
        return None

    # ---- the tower ----------------------------------------------------------------------------

    @property
    def class_tokens(self) -> int:
        """Tokens the tower puts in front of the patches: 1 for CLIP, 0 for SigLIP."""
        return 0

    @property
    def skipped(self) -> int:
        """Leading tokens of the tower that the projector does not read."""
        return self.class_tokens

    def blocks(self) -> list[nn.Module]:
        """The blocks of the tower; hidden state i enters block i."""
        return list(self._encoder().layers)

    def _encoder(self) -> nn.Module:
        return getattr(self.tower, "vision_model", self.tower).encoder

    def feature_layer(self) -> int:
        """The hidden state of the tower that the visual tokens are made of (0: the embeddings)."""
        feature = getattr(self.config, "vision_feature_layer", -1)
        last = feature if isinstance(feature, int) else feature[-1]
        return last if last >= 0 else len(self.blocks()) + 1 + last

    def attention(self, block: int) -> TowerAttention:
        """The attention of a block of the tower."""
        module = self.blocks()[block].self_attn
        heads = module.num_heads
        return TowerAttention(
            Projection(module.q_proj), Projection(module.k_proj), Projection(module.v_proj),
            heads, module.scale,
        )  # fmt: skip

    def patch_rows(self, states: Tensor) -> Tensor:
        """States of the tower as `(rows, patches, ...)`, without what the projector skips."""
        return states[:, self.skipped :]

    def received(self, record: VisionRecord, block: int, attention: TowerAttention) -> Tensor:
        """What each token receives of a block's attention, float32 `(rows, heads, tokens)`.

        Without rows where the tower has none, as `patch_rows` expects it.
        From the class token where there is one, else the mean over all queries of the image.
        """
        q, k = (
            record.projections[block, name].unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            for name in "qk"
        )
        if self.class_tokens:
            return received(q[:, :, :1], k, attention.scale)
        return received(q, k, attention.scale) / q.shape[2]

    def layouts(self, record: VisionRecord) -> list[Layout] | None:
        """How each image's tokens come from the patches; None: one row each, in raster order."""
        return None

    @property
    def has_layouts(self) -> bool:
        """True if `layouts` says how images become tokens."""
        return type(self).layouts is not Family.layouts

    def grid(self) -> tuple[int, int] | None:
        """The raster of every image, if all images have the same."""
        return None

    def rows_of_images(self, record: VisionRecord) -> list[int] | None:
        """Rows of the tower's input that belong to each image; None: one each."""
        return None

    # ---- the language model -------------------------------------------------------------------

    def rotate(
        self, attention: nn.Module, queries: Tensor, keys: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Queries and keys `(batch, heads, positions, width)` with the rotary embedding applied."""
        code = sys.modules[type(attention).__module__]
        return code.apply_rotary_pos_emb(queries, keys, cos, sin)

    def rotary(self, states: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The rotary tables of text positions `(batch, length)`."""
        return self.language.rotary_emb(states, position_ids=positions)

    def install(self, pruner: Any) -> None:
        """Hooks of the family's own, such as what is injected into later layers."""


def unwrap(model: Any) -> Any:
    """The transformers model inside a PEFT, compiled or distributed wrapper."""
    while True:
        if hasattr(model, "get_base_model"):  # PEFT
            model = model.get_base_model()
        elif hasattr(model, "_orig_mod"):  # torch.compile
            model = model._orig_mod
        elif type(model).__name__ in ("DistributedDataParallel", "FullyShardedDataParallel"):
            model = model.module
        else:
            return model


def supported() -> dict[str, str]:
    """`{model type: title}` of all families."""
    return {kind: family.title for kind, family in sorted(_REGISTRY.items())}


def resolve(model: Any) -> Family:
    """The family of a model, its wrappers taken off; the inner model without a head works, too.

    Raises `TypeError` naming the class and what is supported.
    """
    whole = unwrap(model)
    config = getattr(whole, "config", None)
    kind = getattr(config, "model_type", None)
    if kind not in _REGISTRY or not isinstance(whole, nn.Module):
        raise TypeError(
            f"{type(whole).__name__} (model type {kind!r}) is not a model whose visual tokens can "
            "be pruned; supported: " + ", ".join(f"{t} ({k!r})" for k, t in supported().items())
        )
    family = _REGISTRY[kind]
    inner = getattr(whole, "model", whole)
    missing = [n for n in ("config", "get_image_features") if not hasattr(inner, n)]
    if missing:
        raise TypeError(
            f"{type(whole).__name__} has no {' and no '.join(missing)}: pass the whole model, such "
            "as LlavaForConditionalGeneration, or its inner model"
        )
    found = family(whole, inner)
    _refuse_windows(found)
    return found


def _refuse_windows(family: Family) -> None:
    """Layers that see a window of the past would count dropped tokens as near."""
    text = family.language.config
    kinds = {kind for kind in getattr(text, "layer_types", None) or [] if kind != "full_attention"}
    windows = {getattr(text, "sliding_window", None)} | {
        getattr(getattr(layer, "self_attn", None), "sliding_window", None)
        for layer in family.layers
    }
    if getattr(text, "use_sliding_window", True) is False:
        windows = {None}
    windows.discard(None)
    if kinds or windows:
        found = ", ".join(sorted(kinds)) or f"a window of {min(windows)} tokens"
        raise TypeError(
            f"{type(family.language).__name__} has layers that do not attend to the whole sequence "
            f"({found}); only full attention is supported"
        )
