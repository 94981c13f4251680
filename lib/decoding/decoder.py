"""Greedy decoding near the hardware's limit: preallocated caches and one captured step."""

from __future__ import annotations

import functools
from contextlib import nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from ..pruning.engine.graphs import recording
from ..pruning.engine.release import cache_name, cache_of
from ..pruning.families import Family, resolve
from .buffers import BufferPool, Buffers, Slot
from .llama import (
    FusedLayers,
    any_number_of_shapes,
    attention_by_products,
    llama_heads,
    llama_rest,
    llama_weights,
    unlike_llama,
)
from .options import plan
from .prefill import CapturedPrefill, capture, prefill_key, refusal


class StaticDecoder:
    """Greedy generation with static caches of per-layer length.

    model: a model of one of `lib.pruning.families` on one device.
    compiled: write a layer's step out (`lib.decoding.llama`) and fuse its small kernels, and those
        of a captured prompt, with torch.compile; seconds at the first call of a shape, and other
        roundings. Without a GPU the step is written out, but nothing is compiled.
    capture_prefill: capture the prefill, too, when a shape comes for the second time; not for
        methods whose count depends on the image without a bound, nor for families whose images
        differ in length. "at once": when it comes for the first time, so that every call is a
        replay and rounds alike; compiled kernels are then chosen by rule, not by their times, so
        that other processes choose the same.

    Raises `ValueError` if the model is spread over devices, and for another `capture_prefill`;
    `TypeError` for a model of no known family, and for `compiled` with layers that are not Llama's.
    """

    #: devices whose work can be captured
    _captures = ("cuda",)

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        compiled: bool = False,
        capture_prefill: bool | Literal["at once"] = True,
    ) -> None:
        if capture_prefill not in (True, False, "at once"):
            raise ValueError(
                f"capture_prefill must be True, False or 'at once', got {capture_prefill!r}"
            )
        devices = {p.device for p in model.parameters()}
        if len(devices) > 1:
            raise ValueError(
                f"the model must be on one device, it is on {sorted(map(str, devices))}"
            )
        self.family: Family = resolve(model)
        self.model = self.family.model
        self.language = self.family.language
        self.device = devices.pop()
        layers = self.family.layers
        self._cache_name = cache_name(layers[0])
        self._weights = [llama_weights(layer) for layer in layers] if compiled else None
        self._heads, self._rest, self._products = llama_heads, llama_rest, attention_by_products
        self._fused: FusedLayers | None = None
        if compiled and self.device.type == "cuda":
            alike = {"options": {"deterministic": True}} if capture_prefill == "at once" else {}
            # at batch 1 the tuned kernels stream the weights faster than cuBLAS's
            step = alike or {"options": {"coordinate_descent_tuning": True}}
            self._heads = torch.compile(llama_heads, dynamic=False, **step)
            self._rest = torch.compile(llama_rest, dynamic=False, **step)
            self._products = torch.compile(attention_by_products, dynamic=False, **step)
            self._fused = FusedLayers(layers, functools.partial(torch.compile, **alike))
        self._pool = BufferPool()
        self._capture_prefill = capture_prefill
        self._prefills: dict[tuple, CapturedPrefill | None] = {}
        self._last_key: tuple | None = None

    @classmethod
    def repeatable(cls, model: PreTrainedModel) -> StaticDecoder:
        """One whose calls all round alike, compiled on a GPU where the layers are Llama's."""
        layers = resolve(model).layers
        on_gpu = next(model.parameters()).device.type == "cuda"
        compiled = on_gpu and all(unlike_llama(layer) is None for layer in layers)
        return cls(model, compiled=compiled, capture_prefill="at once")

    def options(self) -> dict[str, Any]:
        """What decides how its tokens round."""
        return {"compiled": self._weights is not None, "capture_prefill": self._capture_prefill}

    def refusal(self, pruner: Any = None) -> str | None:
        """Why prefills under a pruner (None: unpruned) are not captured; None if they are."""
        if not self._capture_prefill:
            return "capture_prefill is off"
        if self.device.type not in self._captures:
            return f"nothing is captured on device {self.device.type}"
        return refusal(self.family, pruner)

    def clear(self) -> None:
        """Forget captured graphs and buffers, and give their memory back."""
        self._prefills.clear()
        self._pool.clear()
        self._last_key = None

    @torch.inference_mode()
    def generate(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        check_every: int = 16,
        **options: Any,
    ) -> Tensor:
        """Prompt and new tokens, `(batch, prompt + new)`: what `generate(do_sample=False)` returns.

        options: as for `generate`; lengths, end-of-sequence and padding tokens are honoured, as
        they stand in the model's generation configuration or in the call. Anything else that would
        change the tokens raises `ValueError` (see `lib.decoding.options`). The host looks for
        finished rows every `check_every` tokens only, so that it never holds the device up.
        """
        asked = plan(self.model, input_ids.shape[1], options)
        token, cache, position = self.prefill(
            input_ids=input_ids, attention_mask=attention_mask, **asked.inputs
        )
        if asked.new_tokens == 1:
            return torch.cat([input_ids, token], 1)
        buffers = self._pool.fill(cache, attention_mask, asked.new_tokens)
        del cache
        buffers.token.copy_(token)
        buffers.positions.copy_(position)
        buffers.out[:, :1] = token
        buffers.step.fill_(1)
        stops = torch.tensor(asked.stops, device=token.device) if asked.stops else None
        done = 1
        while done < asked.new_tokens:
            for _ in range(min(check_every, asked.new_tokens - done)):
                self._advance(buffers)
                done += 1
            if stops is not None and bool(torch.isin(buffers.out[:, :done], stops).any(1).all()):
                break
        return torch.cat([input_ids, _trim(buffers.out[:, :done], stops, asked.pad)], 1)

    # ---- the prompt ---------------------------------------------------------------------------

    @property
    def captured(self) -> bool:
        """True if prefills like the last one are replayed."""
        return self._prefills.get(self._last_key) is not None

    @torch.inference_mode()
    def prefill(
        self, *, input_ids: Tensor, attention_mask: Tensor | None = None, **inputs: Any
    ) -> tuple[Tensor, Any, Tensor]:
        """First new token `(batch, 1)`, the cache behind it and the token's position `(batch, 1)`.

        What a captured prefill returns is overwritten by the next one.
        """
        given = {"input_ids": input_ids} | inputs
        # without padding no mask is needed; asked once, so that nothing else has to
        if attention_mask is not None and not bool(attention_mask.all()):
            given["attention_mask"] = attention_mask
        capturable = self._capture_prefill and self.device.type in self._captures
        key = prefill_key(self.family, self._pruner, given) if capturable else None
        again = key == self._last_key
        if not again:
            self._last_key = key
            self._prefills.clear()
        # most shapes of a data set come once
        if key is None or not (again or self._capture_prefill == "at once"):
            return self._first(**given)
        if key not in self._prefills:
            self._prefills[key] = self._tried(given, images_each=key[0])
        captured = self._prefills[key]
        return self._first(**given) if captured is None else captured.replay(given, self._pruner)

    def _tried(self, given: dict[str, Tensor], *, images_each: int) -> CapturedPrefill | None:
        """A capture; None if the device refuses what the method does: the plain call is right."""
        try:
            # here alone: to compile for a prompt that comes once takes longer than to read it
            with nullcontext() if self._fused is None else self._fused.used():
                return self._captured(given, images_each=images_each)
        except RuntimeError as error:
            if self._capture_prefill != "at once":
                return None
            who = "the model" if self._pruner is None else type(self._pruner).__name__
            raise ValueError(
                f"a prefill of {who} cannot be captured ({error}), so its first call would round "
                "unlike others: use capture_prefill=True, or generate"
            ) from error

    def _captured(self, given: dict[str, Tensor], *, images_each: int) -> CapturedPrefill:
        """Capture `_first` for inputs of these shapes."""
        return capture(self._first, self.family, self._pruner, given, images_each)

    @property
    def _pruner(self) -> Any:
        """The pruner active on the model, if any."""
        return getattr(self.family.inner, "_visual_pruner", None)

    def _first(
        self, *, input_ids: Tensor, attention_mask: Tensor | None = None, **inputs: Any
    ) -> tuple[Tensor, Any, Tensor]:
        """The prefill through the model."""
        if attention_mask is None:
            positions = torch.arange(input_ids.shape[1], device=input_ids.device)
            positions = positions.expand(input_ids.shape)
        else:
            positions = attention_mask.long().cumsum(1) - 1
            positions = positions.masked_fill(attention_mask == 0, 0)
        after = positions[:, -1:] + 1
        if not self.family.plain_positions:
            given = (
                inputs if attention_mask is None else inputs | {"attention_mask": attention_mask}
            )
            positions = self.model._prepare_position_ids_for_generation(input_ids, given)
            after = positions[-1, :, -1:] + 1  # a word's rows are one
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **inputs,
        )
        return _greedy(output.logits), cache_of(output), after

    # ---- a step -------------------------------------------------------------------------------

    def _advance(self, buffers: Buffers) -> None:
        """One token for every row; on a GPU captured at the first call and replayed after."""
        if self.device.type != "cuda":
            self._step(buffers)
            return
        if buffers.graph is None:
            saved = [t.clone() for t in buffers.counters()]
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            shapes = nullcontext() if self._fused is None else any_number_of_shapes()
            with torch.cuda.stream(stream), shapes:
                for _ in range(2):  # warm-up: compilation and library handles, not to be captured
                    self._step(buffers)
                    for tensor, value in zip(buffers.counters(), saved):
                        tensor.copy_(value)
            torch.cuda.current_stream().wait_stream(stream)
            buffers.graph = torch.cuda.CUDAGraph()
            with recording(buffers.graph, stream):
                self._step(buffers)
        buffers.graph.replay()

    def _step(self, buffers: Buffers) -> None:
        for place, mask in zip(buffers.places, buffers.masks):
            mask.index_fill_(3, place, 0)
        states = self.language.embed_tokens(buffers.token)
        rotary = buffers.rotary(self.family.rotary, states)
        for index, (slot, group) in enumerate(zip(buffers.slots, buffers.group_of)):
            layer, mask = self.family.layers[index], buffers.masks[group]
            if self._weights is None:
                states = self._run_layer(layer, states, mask, rotary[group], slot)
            else:
                states = self._written_out(index, states, mask, rotary[group], slot)
        logits = self.model.lm_head(self.language.norm(states))
        buffers.token.copy_(_greedy(logits))
        buffers.out.index_copy_(1, buffers.step, buffers.token)
        buffers.step.add_(1)
        buffers.positions.add_(1)
        for place in buffers.places:
            place.add_(1)

    def _run_layer(
        self, layer: Any, states: Tensor, mask: Tensor, rotary: tuple[Tensor, Tensor], slot: Slot
    ) -> Tensor:
        """The layer's own forward, without the hooks of a pruner: a step prunes nothing."""
        out = type(layer).forward(
            layer,
            states,
            attention_mask=mask,
            position_embeddings=rotary,
            use_cache=True,
            **{self._cache_name: slot},
        )
        return out[0] if isinstance(out, tuple) else out

    def _written_out(
        self, index: int, states: Tensor, mask: Tensor, rotary: tuple[Tensor, Tensor], slot: Slot
    ) -> Tensor:
        """One Llama layer, its small kernels fused on both sides of the attention."""
        layer, (first, second) = self.family.layers[index], self._weights[index]
        caches = slot.keys, slot.values
        if self._fused is not None:  # what is compiled serves every capacity
            for tensor, dim in ((slot.keys, 2), (slot.values, 2), (mask, 3)):
                torch._dynamo.maybe_mark_dynamic(tensor, dim)
        eps = layer.input_layernorm.variance_epsilon
        query = self._heads(states, first, *rotary, *caches, slot.place, eps=eps)
        scale = layer.self_attn.scaling
        if self._by_products():
            mixed = self._products(query, *caches, mask, scale)
        else:
            grouped = query.shape[1] != slot.keys.shape[1]
            mixed = F.scaled_dot_product_attention(
                query, *caches, mask, scale=scale, enable_gqa=grouped
            )
        eps = layer.post_attention_layernorm.variance_epsilon
        return self._rest(states, mixed, second, eps=eps)

    def _by_products(self) -> bool:
        """True where PyTorch would take its own kernels for a step's attention; cuDNN's, which it
        prefers for half precision on Hopper and data-centre Blackwell, are as fast as products."""
        if self._fused is None:
            return False
        half = self.model.dtype in (torch.float16, torch.bfloat16)
        preferred = half and torch.cuda.get_device_capability(self.device)[0] in (9, 10)
        cudnn = torch.backends.cudnn.is_available() and torch.backends.cuda.cudnn_sdp_enabled()
        return not (preferred and cudnn)


def _greedy(logits: Tensor) -> Tensor:
    """The most likely token, `(batch, 1)`; in float32 as in `generate`, so that exact ties of half
    precision fall the same way."""
    return logits[:, -1].float().argmax(-1, keepdim=True)


def _trim(out: Tensor, stops: Tensor | None, pad: int | None) -> Tensor:
    """Padding behind each row's end of sequence, and no columns behind the last end."""
    if stops is None:
        return out
    ends = torch.isin(out, stops)
    before = ends.long().cumsum(1) - ends.long()  # stops seen before each position
    if pad is not None:
        out = out.masked_fill(before > 0, pad)
    return out[:, : int((before == 0).sum(1).max())]
