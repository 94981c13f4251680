"""The hooks of a pruner: they follow one forward pass from the prompt to the last layer."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin

from . import stages
from .attention import LayerAttention, layer_attention
from .cache import PrunedCache, extend
from .images import grouped, in_reading_order, locate
from .passes import Ahead, Kept, Pass, Stage
from .prompt import (
    appending,
    captured,
    hides_nothing,
    note_visible,
    placeholders,
    read_masks,
)
from .release import arguments, causal_mask, check_lengths, given_cache, inside_backward
from .sequence import segment_after
from .vision import VisionRecord, attach, record_of

if TYPE_CHECKING:
    from .pruner import VisualPruner

#: what a forward can be given images by
IMAGE_INPUTS = ("pixel_values", "pixel_values_videos", "mm_encoder_outputs")


class Forward:
    """What a with-block does to the model's forward pass."""

    def __init__(self, pruner: VisualPruner) -> None:
        self.pruner, self.family = pruner, pruner.family
        self.current = pruner._current
        self.layers = tuple(sorted(set(pruner.stages())))
        self._checked = False

    def install(self) -> None:
        """Register every hook; `Hooks.close` takes them back."""
        hooks, family = self.pruner.hooks, self.family
        if family.model is not family.inner:
            hooks.add(family.model, self._before_model, before=True)
            hooks.add(family.model, self._after_model, before=False)
        if isinstance(family.model, GenerationMixin):
            self._watch_generate(family.model)
        hooks.add(family.inner, self._begin, before=True)
        for modality, (_, name) in family.modalities.items():
            if (encode := getattr(family.inner, name, None)) is not None:
                hooks.replace(family.inner, name, self._encoding(modality, encode))
        if family.tokens_each() is not None and [*family.modalities] == ["image"]:
            known = placeholders(self.current, family.inner.get_placeholder_mask)
            hooks.replace(family.inner, "get_placeholder_mask", known)
        hooks.add(family.language, self._locate, before=True)
        self.pruner.attach(family.model)
        family.install(self.pruner)
        for index, layer in enumerate(family.layers):
            if index >= self.layers[0]:
                hooks.add(layer, self._layer_hook(index), before=True)
        hooks.add(family.inner, self._end, before=False, always=True)

    # ---- generate -----------------------------------------------------------------------------

    def _watch_generate(self, model: Any) -> None:
        """Tell calls of `generate` from others, and refuse a prompt it would cut in pieces."""
        prepare, prefill = model.prepare_inputs_for_generation, model._prefill

        @functools.wraps(prepare)
        def preparing(*args: Any, **kwargs: Any) -> Any:
            self.current.generating = True
            return prepare(*args, **kwargs)

        @functools.wraps(prefill)
        def prefilling(
            input_ids: Tensor, generation_config: Any, model_kwargs: dict, *rest, **more
        ):
            size = getattr(generation_config, "prefill_chunk_size", None)
            seen = any(model_kwargs.get(n) is not None for n in IMAGE_INPUTS)
            if size is not None and seen and not self.pruner.keeps_all:
                raise ValueError(
                    f"prefill_chunk_size={size} would cut the prompt in pieces, but tokens are "
                    "chosen once all of it is there; leave it out while pruning"
                )
            return prefill(input_ids, generation_config, model_kwargs, *rest, **more)

        name = "_update_model_kwargs_for_generation"
        if getattr(type(model), name) is getattr(GenerationMixin, name):
            self.pruner.hooks.replace(model, name, appending(self.current, getattr(model, name)))
        self.pruner.hooks.replace(model, "prepare_inputs_for_generation", preparing)
        self.pruner.hooks.replace(model, "_prefill", prefilling)

    def _before_model(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        named = arguments(module, args, kwargs)
        keep = named.get("logits_to_keep")
        generating, self.current.generating = self.current.generating, False
        # `generate` asks for more than the last logits only where it checks drafts behind a prompt
        drafted = generating and isinstance(keep, int) and keep > 1
        self.current.drafts = keep - 1 if drafted else 0
        if self.pruner.mode == "inplace" and not self.pruner.keeps_all:
            if named.get("labels") is not None:
                raise ValueError(
                    "labels do not line up with a sequence pruned in place; "
                    "use mode='mask' to compute a loss"
                )
            if isinstance(keep, Tensor):
                raise ValueError(
                    "logits_to_keep as a tensor of positions does not line up with a sequence "
                    "pruned in place; pass a number of trailing positions"
                )
        self.current.reached = False

    def _after_model(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if not self.current.reached:
            raise RuntimeError(
                f"{type(module).__name__} ran code that torch.compile made outside of this "
                "with-block, so nothing was pruned; call torch._dynamo.reset() before the block"
            )

    # ---- the prompt ---------------------------------------------------------------------------

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        current = self.current
        current.pass_, current.reached = None, True
        self._refuse_recomputation(module)
        named = arguments(module, args, kwargs)
        cache = given_cache(named)
        state = cache.visual if isinstance(cache, PrunedCache) else None
        if state is not None and state.owner() is not self.pruner:
            raise RuntimeError(
                "this cache was pruned by another pruner, or in an earlier with-block; start from "
                "a new prompt in this one"
            )
        images = any(_given(named.get(name)) for name in IMAGE_INPUTS)
        if not images and state is None:
            return None
        ids, embeds = named.get("input_ids"), named.get("inputs_embeds")
        batch, length = (ids if ids is not None else embeds).shape[:2]
        past = cache.get_seq_length() if cache is not None else 0
        pass_ = Pass(length, past, batch, state, drafts=current.drafts, ids=ids)
        current.drafts = 0
        if images:
            pass_.arguments = named
            pass_.marks = {
                m: self.family.placeholders(m, ids, embeds) for m in self.family.modalities
            }
            pass_.image_mask = functools.reduce(torch.logical_or, pass_.marks.values())
            encoded = named.get("mm_encoder_outputs") or {}
            for modality in self.family.modalities:
                if encoded.get(modality) is not None:
                    pass_.features.append((modality, encoded[modality]))
        mask = named.get("attention_mask")
        # to find out that a mask hides nothing the model would wait for the device at every step
        spared = not images and hides_nothing(current, mask) and mask.shape[1] == past + length
        if not spared:
            read_masks(pass_, mask, current)
            note_visible(current, mask if pass_.whole is None else None)
        current.pass_ = pass_
        return (args, kwargs | {"attention_mask": None}) if spared else None

    def _refuse_recomputation(self, module: nn.Module) -> None:
        if not torch.is_grad_enabled() or not module.training:
            return
        if any(getattr(layer, "gradient_checkpointing", False) for layer in self.family.layers):
            raise RuntimeError(
                "gradient checkpointing runs layers again after the pass, when nothing is pruned; "
                "call model.gradient_checkpointing_disable() while pruning"
            )

    def _encoding(self, modality: str, encode: Callable) -> Callable:
        """`get_image_features` with a record of what the tower did for its images."""
        signature = inspect.signature(encode)

        @functools.wraps(encode)
        def encoding(*args: Any, **kwargs: Any) -> Any:
            if self.current.record is not None:  # videos that are encoded as images are
                return encode(*args, **kwargs)
            named = dict(signature.bind_partial(*args, **kwargs).arguments)
            record = VisionRecord(named | named.pop("kwargs", {}), modality=modality)
            self.current.record = record
            try:
                features = encode(*args, **kwargs)
            finally:
                self.current.record = None
            if not isinstance(features, tuple):
                record.images = len(self.family.lengths(features, record))
                attach(features, record)
            if self.current.pass_ is not None:  # encoded by the very forward that needs them
                self.current.pass_.features.append((modality, features))
            return features

        return encoding

    def _locate(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Find the images in the prompt, now that their features are there."""
        pass_ = self.current.pass_
        if pass_ is None or pass_.image_mask is None:
            return None
        records = [record_of(features) for _, features in pass_.features]
        lengths = [
            self.family.lengths(
                features, record or VisionRecord(pass_.arguments, modality=modality)
            )
            for (modality, features), record in zip(pass_.features, records)
        ]
        marks = [pass_.marks[modality] for modality, _ in pass_.features]
        every, pass_.arguments, pass_.marks = len(pass_.marks), {}, {}
        if not any(lengths):
            return None
        pass_.lengths = lengths[0] if len(lengths) == 1 else in_reading_order(marks, lengths)
        found, device = functools.reduce(torch.logical_or, marks), pass_.image_mask.device
        if len(marks) < every:
            pass_.image_mask = found.to(device, non_blocking=True)
        each = self.current.images_each
        rows, columns, pass_.row_of = locate(found, pass_.lengths, each, device)
        pass_.groups = grouped(rows, columns, pass_.lengths, pass_)
        if not captured(pass_.image_mask, self.current):
            embeddings = kwargs.get("inputs_embeds", args[0] if args else None)
            for images in pass_.groups:
                stages.check_finite(pass_, images, embeddings)
        known = len(records) == 1 and records[0] is not None
        pass_.encoded_images = records[0].images if known else pass_.images
        # the model would read a mask that hides nothing back once more; without a cache it would
        # look for sequences packed into one instead
        cached = kwargs.get("use_cache") or given_cache(kwargs) is not None
        if pass_.whole is None and cached and not self.pruner.keeps_all:
            return args, kwargs | {"attention_mask": None}
        return None

    # ---- the layers ---------------------------------------------------------------------------

    def _layer_hook(self, index: int) -> Callable:
        starts = index in self.layers

        def hook(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
            pass_ = self.current.pass_
            if pass_ is None:
                _refuse_backward()
                return None
            hidden = args[0] if args else kwargs["hidden_states"]
            if starts and not (self.pruner.keeps_all and pass_.state is None):
                hidden = self._stage(pass_, index, hidden, kwargs)
                changed = kwargs | self._given(pass_.stages[-1], hidden, kwargs)
                if args:
                    return (hidden, *args[1:]), changed
                return args, changed | {"hidden_states": hidden}
            if not pass_.stages:
                if index == self.layers[0]:
                    self._keep_all(pass_)
                return None
            stage = pass_.stages[-1]
            masked = stage.mask is not None or kwargs.get("attention_mask") is not None
            if not masked and not _renumbered(stage):
                return None  # as in most steps of decoding, which should cost nothing here
            return args, kwargs | self._given(stage, hidden, kwargs)

        return hook

    def _given(self, stage: Stage, hidden: Tensor, kwargs: dict) -> dict[str, Any]:
        """What the layers of a stage get instead of the model's own, worked out once a device."""
        given = stage.given.get(hidden.device)
        if given is None:
            mask = stage.mask
            given = {"attention_mask": mask.to(hidden.device) if isinstance(mask, Tensor) else mask}
            if _renumbered(stage):
                given |= stages.positions(self.family, stage, kwargs, hidden)
            stage.given[hidden.device] = given
        return given

    def _keep_all(self, pass_: Pass) -> None:
        if pass_.groups:
            device = pass_.image_mask.device
            whole = [torch.ones(n, dtype=torch.bool, device=device) for n in pass_.lengths]
            self.current.kept = Kept([(self.layers[0], whole)], pass_.images_per_row)

    def _stage(self, pass_: Pass, index: int, hidden: Tensor, kwargs: dict) -> Tensor:
        """Choose before layer `index`, and work out what the layers from it on are given."""
        cache = given_cache(kwargs)
        if cache is not None and type(cache) not in (DynamicCache, PrunedCache):
            raise TypeError(
                f"pruning keeps layers of different lengths, which {type(cache).__name__} cannot "
                "hold; leave cache_implementation at its default (DynamicCache)"
            )
        stage = Stage(index)
        if pass_.groups:
            pass_.ahead = self._ahead(pass_, index, hidden, kwargs, cache)
            hidden = stages.choose(self.pruner, pass_, stage, hidden)
            pass_.ahead = None
        else:
            stage.key_mask = pass_.valid
        if cache is not None and len(cache.layers) > index:
            stage.held = cache.layers[index].get_seq_length()
        length = hidden.shape[1]
        past = self._past_visible(pass_, index, stage.held)
        keys = stages.joined(past, stage.key_mask, stage.held, length, hidden)
        config = self.family.language.config
        stage.mask = causal_mask(config, hidden, length=length, held=stage.held, key_mask=keys)
        before = pass_.state.at(index) if pass_.state is not None else None
        stages.renumber(self.pruner, pass_, stage, before, kwargs)
        if cache is not None:
            pass_.cache = cache
            if pass_.groups:
                stage.segment = segment_after(pass_, stage, before, hidden.device)
        pass_.stages.append(stage)
        if stage.segment is not None:
            if type(cache) is DynamicCache:
                cache.__class__ = PrunedCache
            made = [one.segment for one in pass_.stages]
            cache.visual = extend(pass_.state, made, weakref.ref(self.pruner))
        return hidden

    def _ahead(self, pass_: Pass, index: int, hidden: Tensor, kwargs: dict, cache: Any) -> Ahead:
        """The layer about to run, with what it would be given if this stage dropped nothing."""
        rotary, last = kwargs["position_embeddings"], pass_.stage
        if last is not None and _renumbered(last):
            rotary = self._given(last, hidden, kwargs)["position_embeddings"]
        keys = None
        if cache is not None and len(cache.layers) > index:
            keys = cache.layers[index].keys if cache.layers[index].get_seq_length() else None
        held = 0 if keys is None else keys.shape[2]
        seen = self._past_visible(pass_, index, held)
        return Ahead(self.family.layers[index], rotary, keys, seen)

    def _past_visible(self, pass_: Pass, layer: int, held: int) -> Tensor | None:
        """Which of the `held` keys of earlier passes a layer may attend to; None: all."""
        if not held:
            return None
        whole = None if pass_.whole is None else pass_.whole[:, : pass_.past]
        segment = pass_.state.at(layer) if pass_.state is not None else None
        if segment is not None:
            return segment.visible(held, whole)
        return None if whole is None else whole[:, :held]

    def attention_of(
        self, module: nn.Module, made: dict[str, Tensor], kwargs: dict, pass_: Pass
    ) -> LayerAttention:
        """What a `Watch` captured of a layer, put together."""
        seen = functools.partial(self._past_visible, pass_, module.layer_idx)
        return layer_attention(self.family, module, made, kwargs, pass_.visible, seen)

    # ---- the end ------------------------------------------------------------------------------

    def _end(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        pass_, self.current.pass_ = self.current.pass_, None
        if pass_ is None:
            return
        try:
            if output is not None:  # None: the forward raised
                stages.settle(pass_)
                if pass_.stages and pass_.groups:
                    self.current.kept = stages.kept(pass_)
                if pass_.cache is not None and not self._checked:
                    self._check_cache(pass_)
        finally:
            # images and pass know each other: the cache would wait for the garbage collector
            pass_.groups.clear()
            pass_.doubts.clear()

    def _check_cache(self, pass_: Pass) -> None:
        """Once a block: every layer holds what the hooks gave it."""
        expected = []
        for layer in range(len(self.family.layers)):
            found = [stage for stage in pass_.stages if stage.layer <= layer]
            if found:
                columns = found[-1].columns
                new = pass_.length if columns is None else columns.shape[1]
                expected.append(found[-1].held + new)
            else:
                expected.append(pass_.past + pass_.length)
        check_lengths(pass_.cache, expected)
        self._checked = True


def _refuse_backward() -> None:
    if inside_backward():
        raise RuntimeError(
            "a layer is computed again in the backward pass, when nothing is pruned; do not "
            "checkpoint layers while pruning"
        )


def _given(value: Any) -> bool:
    """True for pixels, and for encoded features of any modality."""
    if isinstance(value, Mapping):
        return any(entry is not None for entry in value.values())
    return value is not None


def _renumbered(stage: Stage) -> bool:
    """True if layers of a stage are given other positions than the model's."""
    return stage.columns is not None or stage.ids is not None
