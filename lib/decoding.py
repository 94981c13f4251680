"""Greedy decoding near the hardware's limit: preallocated caches and one captured step.

`generate` launches over a thousand small kernels a token, which hides at batch 1 what pruning
saves. `StaticDecoder` yields the same tokens: the prefill runs through the model's own forward with
whatever pruner is active, its keys and values move into buffers that have each layer's own length,
and the decoding step is captured once in a CUDA graph and replayed. A prefill of a shape that comes
again is captured as well: vision tower, scorer and language model in one graph. Without a GPU the
same functions run uncaptured, which is how the tests compare them with `generate`.

Attention is PyTorch's choice. On a recent GPU in half precision that may be cuDNN's, the fastest,
whose step rounds differently from call to call; `lib.study.captioning.repeatable_attention` avoids
it.

    decoder = StaticDecoder(model)
    with EntropyPrune(keep=0.5)(model):
        ids = decoder.generate(**inputs, max_new_tokens=64)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation

from .pruning import PrunedCache
from .pruning.base import visual_tokens

_SILU = (torch.nn.SiLU, SiLUActivation)
#: Buffers grow in steps of this many positions, so that prompts of similar length share a graph.
BUCKET = 64


@dataclass
class _Slot:
    """Keys and values of one layer, `(batch, kv_heads, capacity, head_dim)`, written in place."""

    keys: Tensor
    values: Tensor
    place: Tensor  # (1,) int64: where the next token goes; shared by the layers of one group

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.keys.index_copy_(2, self.place, keys)
        self.values.index_copy_(2, self.place, values)
        return self.keys, self.values


@dataclass
class _Buffers:
    """Everything a decoding step reads and writes, at fixed addresses."""

    slots: list[_Slot]
    places: list[Tensor]  # per group of layers with one length
    masks: list[Tensor]  # per group: (batch, 1, 1, capacity), 0 or -inf
    group_of: list[int]  # per layer
    token: Tensor  # (batch, 1)
    positions: Tensor  # (batch, 1)
    step: Tensor  # (1,)
    out: Tensor  # (batch, new tokens)
    graph: Any = field(default=None)


@dataclass
class _Prefill:
    """A captured prefill: the graph, what it reads and what it leaves behind."""

    graph: Any
    inputs: dict[str, Tensor]
    output: tuple[Tensor, Any, Tensor]  # first token, cache, its position
    seen: Any  # what the pruner remembers of the pass


class StaticDecoder:
    """Greedy generation with static caches of per-layer length.

    model: a LLaVA (or any model with `model.language_model` and `lm_head`) on one device.
    compiled: write a layer's step out (`llama_heads`, `llama_rest`) and fuse its small kernels with
        torch.compile; seconds at the first call of a batch size, and other roundings. Without a GPU
        it is written out, but not compiled.
    capture_prefill: capture the prefill, too, when a shape comes for the second time; not for
        methods whose count depends on the image, nor for LLaVA-NeXT, whose images differ in length.

    Raises `ValueError` for sampling or beam options, and if the model is spread over devices;
    `TypeError` for `compiled` with layers that are not Llama's.
    """

    def __init__(
        self, model: PreTrainedModel, *, compiled: bool = False, capture_prefill: bool = True
    ) -> None:
        devices = {p.device for p in model.parameters()}
        if len(devices) > 1:
            raise ValueError(
                f"the model must be on one device, it is on {sorted(map(str, devices))}"
            )
        self.model = model
        self.language = model.model.language_model
        self.device = devices.pop()
        self._weights = [_llama_weights(la) for la in self.language.layers] if compiled else None
        self._heads, self._rest = llama_heads, llama_rest
        if compiled and self.device.type == "cuda":
            # at batch 1 the tuned kernels stream the weights faster than cuBLAS's
            options = {"dynamic": False, "options": {"coordinate_descent_tuning": True}}
            self._heads = torch.compile(llama_heads, **options)
            self._rest = torch.compile(llama_rest, **options)
        self._buffers: dict[tuple, _Buffers] = {}
        self._capture_prefill = capture_prefill
        self._prefills: dict[tuple, _Prefill] = {}
        self._last_key: tuple | None = None

    def clear(self) -> None:
        """Forget captured graphs and buffers, and give their memory back."""
        self._prefills.clear()
        self._buffers.clear()
        self._last_key = None

    #: devices whose work can be captured
    _captures = ("cuda",)

    @torch.inference_mode()
    def generate(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        max_new_tokens: int = 64,
        eos_token_id: int | list[int] | None = None,
        pad_token_id: int | None = None,
        check_every: int = 16,
        **inputs: Any,
    ) -> Tensor:
        """Prompt and new tokens, `(batch, prompt + new)`: what `generate(do_sample=False)` returns.

        The end-of-sequence and padding tokens default to the model's generation configuration.
        The host looks for finished rows every `check_every` tokens only, so that it never holds
        the device up in between.
        """
        for option in ("do_sample", "num_beams", "num_return_sequences"):
            if inputs.pop(option, None) not in (None, False, 1):
                raise ValueError(f"StaticDecoder is greedy; {option} is not supported")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        config = self.model.generation_config
        eos = config.eos_token_id if eos_token_id is None else eos_token_id
        pad = config.pad_token_id if pad_token_id is None else pad_token_id
        token, cache, position = self.prefill(
            input_ids=input_ids, attention_mask=attention_mask, **inputs
        )
        if max_new_tokens == 1:
            return torch.cat([input_ids, token], 1)
        buffers = self._fill(cache, attention_mask, max_new_tokens)
        del cache
        buffers.token.copy_(token)
        buffers.positions.copy_(position)
        buffers.out[:, :1] = token
        buffers.step.fill_(1)
        stops = None if eos is None else torch.as_tensor(eos, device=token.device).view(-1)
        done = 1
        while done < max_new_tokens:
            for _ in range(min(check_every, max_new_tokens - done)):
                self._advance(buffers)
                done += 1
            if stops is not None and bool(torch.isin(buffers.out[:, :done], stops).any(1).all()):
                break
        return torch.cat([input_ids, _trim(buffers.out[:, :done], stops, pad)], 1)

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
        key = self._prefill_key(given)
        if key is None or key != self._last_key:  # most shapes of a data set come once
            self._last_key = key
            self._prefills.clear()
            return self._first(**given)
        if key not in self._prefills:
            self._prefills[key] = self._captured(given, images_each=key[0])
        captured, pruner = self._prefills[key], self._pruner
        if pruner is not None and pruner.image_keys is not None:
            given["image_keys"] = pruner.image_keys
        for name, tensor in captured.inputs.items():
            tensor.copy_(given[name])
        captured.graph.replay()
        if pruner is not None:
            pruner._last = captured.seen
        return captured.output

    @property
    def _pruner(self) -> Any:
        """The pruner active on the model, if any."""
        return getattr(self.model.model, "_visual_pruner", None)

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
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **inputs,
        )
        return _greedy(output.logits), output.past_key_values, positions[:, -1:] + 1

    def _prefill_key(self, given: dict[str, Any]) -> tuple | None:
        """What a captured prefill depends on besides values; None if it cannot be captured."""
        config, pruner = self.model.config, self._pruner
        if not self._capture_prefill or self.device.type not in self._captures:
            return None
        if config.model_type != "llava" or not all(isinstance(t, Tensor) for t in given.values()):
            return None
        if pruner is not None and not (pruner.exact or pruner.keeps_all):
            return None
        if "pixel_values" not in given or "past_key_values" in given:
            return None
        counts = (given["input_ids"] == config.image_token_id).sum(1).tolist()
        each, rest = divmod(counts[0], visual_tokens(config))
        if rest or not each or any(count != counts[0] for count in counts):
            return None
        options = None
        if pruner is not None:
            options = (type(pruner), repr(pruner.options()), pruner.image_keys is not None)
        shapes = tuple((name, t.shape, t.dtype) for name, t in sorted(given.items()))
        return each, options, shapes

    def _placeholders(self, input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
        """Where the image tokens are, `(batch, positions, 1)`."""
        return (input_ids == self.model.config.image_token_id).unsqueeze(-1)

    def _captured(self, given: dict[str, Tensor], *, images_each: int) -> _Prefill:
        """Capture `_first` for inputs of these shapes."""
        pruner = self._pruner
        inputs = {name: tensor.clone() for name, tensor in given.items()}
        keys = None if pruner is None else pruner.image_keys
        graph, inner = torch.cuda.CUDAGraph(), self.model.model
        try:
            # transformers reads the number of image tokens back to compare it; the key has done so
            inner.get_placeholder_mask = self._placeholders
            if pruner is not None:
                pruner.images_each = images_each
                if keys is not None:
                    pruner.image_keys = keys.to(self.device, copy=True)
            # the model goes before what a pruner does beside it on streams of its own
            stream = torch.cuda.Stream(priority=-1)
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # warm-up: library handles, not to be captured
                self._first(**inputs)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph, stream=stream):
                output = self._first(**inputs)
            if keys is not None:
                inputs["image_keys"] = pruner.image_keys
            return _Prefill(graph, inputs, output, None if pruner is None else pruner._last)
        finally:
            del inner.get_placeholder_mask
            if pruner is not None:
                pruner.images_each, pruner.image_keys = None, keys

    def _fill(self, cache: Any, attention_mask: Tensor | None, new: int) -> _Buffers:
        """Move a prefill's keys and values into static buffers (made once for each shape)."""
        state = cache.visual if isinstance(cache, PrunedCache) else None
        # layers with one length and one mask share a group
        kinds = [
            (layer.keys.shape[2], state is not None and index >= state.layer)
            for index, layer in enumerate(cache.layers)
        ]
        groups = list(dict.fromkeys(kinds))
        group_of = [groups.index(kind) for kind in kinds]
        capacities = [-(-(length + new) // BUCKET) * BUCKET for length, _ in groups]
        like = cache.layers[0].keys
        key = (like.shape[0], new, tuple(group_of), tuple(capacities), like.dtype)
        if key not in self._buffers:
            self._buffers.clear()  # one shape at a time: a batch of 32 holds gigabytes
            self._buffers[key] = self._allocate(cache, new, capacities, group_of)
        buffers = self._buffers[key]
        for (length, pruned), place, mask in zip(groups, buffers.places, buffers.masks):
            place.fill_(length)
            mask.fill_(float("-inf"))
            mask[..., :length] = 0
            visible = state.key_mask if pruned else attention_mask
            if visible is not None:
                mask[:, 0, 0, :length].masked_fill_(~visible.bool(), float("-inf"))
        places, sources = [], []
        for slot, layer in zip(buffers.slots, cache.layers):
            length = layer.keys.shape[2]
            places += [slot.keys[:, :, :length], slot.values[:, :, :length]]
            sources += [layer.keys, layer.values]
        torch._foreach_copy_(places, sources)
        return buffers

    def _allocate(
        self, cache: Any, new: int, capacities: list[int], group_of: list[int]
    ) -> _Buffers:
        like = cache.layers[0].keys
        batch = like.shape[0]

        def integer(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=like.device)

        places = [integer(1) for _ in capacities]
        slots = []
        for layer, group in zip(cache.layers, group_of):
            _, heads, _, width = layer.keys.shape
            shape = (batch, heads, capacities[group], width)
            slots.append(_Slot(like.new_zeros(shape), like.new_zeros(shape), places[group]))
        masks = [like.new_zeros(batch, 1, 1, capacity) for capacity in capacities]
        tokens = [integer(batch, 1), integer(batch, 1), integer(1), integer(batch, new)]
        return _Buffers(slots, places, masks, group_of, *tokens)

    def _advance(self, buffers: _Buffers) -> None:
        """One token for every row; on a GPU captured at the first call and replayed after."""
        if self.device.type != "cuda":
            self._step(buffers)
            return
        if buffers.graph is None:
            saved = [t.clone() for t in self._counters(buffers)]
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):  # warm-up: compilation and library handles, not to be captured
                    self._step(buffers)
                    for tensor, value in zip(self._counters(buffers), saved):
                        tensor.copy_(value)
            torch.cuda.current_stream().wait_stream(stream)
            buffers.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(buffers.graph):
                self._step(buffers)
        buffers.graph.replay()

    @staticmethod
    def _counters(buffers: _Buffers) -> list[Tensor]:
        """What a step changes besides the slots' next position, to undo a warm-up."""
        return [
            buffers.token,
            buffers.positions,
            buffers.step,
            buffers.out,
            *buffers.places,
            *buffers.masks,
        ]

    def _step(self, buffers: _Buffers) -> None:
        for place, mask in zip(buffers.places, buffers.masks):
            mask.index_fill_(3, place, 0)
        states = self.language.embed_tokens(buffers.token)
        rotary = self.language.rotary_emb(states, position_ids=buffers.positions)
        for index, (slot, group) in enumerate(zip(buffers.slots, buffers.group_of)):
            layer, mask = self.language.layers[index], buffers.masks[group]
            if self._weights is None:
                states = _run_layer(layer, states, mask, rotary, slot)
            else:
                states = self._written_out(index, states, mask, rotary, slot)
        logits = self.model.lm_head(self.language.norm(states))
        buffers.token.copy_(_greedy(logits))
        buffers.out.index_copy_(1, buffers.step, buffers.token)
        buffers.step.add_(1)
        buffers.positions.add_(1)
        for place in buffers.places:
            place.add_(1)

    def _written_out(
        self, index: int, states: Tensor, mask: Tensor, rotary: tuple[Tensor, Tensor], slot: _Slot
    ) -> Tensor:
        """One Llama layer, its small kernels fused on both sides of the attention."""
        layer, (first, second) = self.language.layers[index], self._weights[index]
        query, key, value = self._heads(
            states, first, *rotary, eps=layer.input_layernorm.variance_epsilon
        )
        keys, values = slot.update(key, value)
        mixed = F.scaled_dot_product_attention(
            query, keys, values, mask, scale=layer.self_attn.scaling,
            enable_gqa=query.shape[1] != keys.shape[1],
        )  # fmt: skip
        eps = layer.post_attention_layernorm.variance_epsilon
        return self._rest(states, mixed, second, eps=eps)


def _greedy(logits: Tensor) -> Tensor:
    """The most likely token, `(batch, 1)`; in float32 as in `generate`, so that exact ties of half
    precision fall the same way."""
    return logits[:, -1].float().argmax(-1, keepdim=True)


def _run_layer(
    layer: Any, states: Tensor, mask: Tensor, rotary: tuple[Tensor, Tensor], slot: _Slot
) -> Tensor:
    """The layer's own forward, without the hooks of a pruner: a decoding step prunes nothing."""
    out = type(layer).forward(
        layer,
        states,
        attention_mask=mask,
        position_embeddings=rotary,
        past_key_values=slot,
        use_cache=True,
    )
    return out[0] if isinstance(out, tuple) else out


def _llama_weights(layer: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """What `llama_heads` and `llama_rest` multiply with, in their order."""
    attention, mlp = layer.self_attn, layer.mlp
    if type(layer).__name__ != "LlamaDecoderLayer" or not isinstance(mlp.act_fn, _SILU):
        raise TypeError(f"compiled=True is written for Llama's layers, not {type(layer).__name__}")
    linear = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    linear += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    if any(module.bias is not None for module in linear):
        raise TypeError("compiled=True is written for projections without bias")
    q, k, v, o, *others = (module.weight for module in linear)
    before, after = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
    return (before, q, k, v), (o, after, *others)


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Llama's RMS norm."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def llama_heads(
    states: Tensor, weights: tuple[Tensor, ...], cos: Tensor, sin: Tensor, *, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries and keys, and values, of one token: `(batch, heads, 1, head_dim)` each.

    A Llama layer's forward up to its attention, without its modules: all weights are arguments, so
    that one compilation serves every layer and every length of the cache.
    """
    norm, q, k, v = weights
    batch, width = states.shape[0], cos.shape[-1]
    hidden = _normed(states, norm, eps)

    def heads(weight: Tensor) -> Tensor:
        return F.linear(hidden, weight).view(batch, 1, -1, width).transpose(1, 2)

    def rotate(x: Tensor) -> Tensor:
        left, right = x.chunk(2, -1)
        return x * cos.unsqueeze(1) + torch.cat([-right, left], -1) * sin.unsqueeze(1)

    return rotate(heads(q)), rotate(heads(k)), heads(v)


def llama_rest(states: Tensor, mixed: Tensor, weights: tuple[Tensor, ...], *, eps: float) -> Tensor:
    """The forward of a Llama layer behind its attention, whose output is `mixed`."""
    o, norm, gate, up, down = weights
    mixed = mixed.transpose(1, 2).reshape(states.shape[0], 1, -1)
    states = states + F.linear(mixed, o)
    hidden = _normed(states, norm, eps)
    return states + F.linear(F.silu(F.linear(hidden, gate)) * F.linear(hidden, up), down)


def _trim(out: Tensor, stops: Tensor | None, pad: int | None) -> Tensor:
    """Padding behind each row's end of sequence, and no columns behind the last end."""
    if stops is None:
        return out
    ends = torch.isin(out, stops)
    before = ends.long().cumsum(1) - ends.long()  # stops seen before each position
    if pad is not None:
        out = out.masked_fill(before > 0, pad)
    return out[:, : int((before == 0).sum(1).max())]
