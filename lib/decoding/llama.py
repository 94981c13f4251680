"""A Llama layer's small kernels, fused by torch.compile: a decoding step written out, and a prompt.

A step is a layer's forward without its modules: all weights are arguments, so that one compilation
serves every layer and every length of the cache. A prompt runs through the layers and their
attention, whose hooks pruners need; its norms, MLPs and rotations are written out.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.activations import SiLUActivation

from ..pruning.engine.hooks import replaced_here

_SILU = (torch.nn.SiLU, SiLUActivation)
#: shapes of queries and keys that rotations are compiled for, far more than come
_SHAPES = 4096


def _projections(layer: Any) -> list[Any]:
    attention, mlp = layer.self_attn, layer.mlp
    linear = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    return [*linear, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


def unlike_llama(layer: Any) -> str | None:
    """What of a layer is not as Llama has it, so that it cannot be written out; None: nothing."""
    written = "compiled=True is written for"
    if type(layer).__name__ != "LlamaDecoderLayer" or not isinstance(layer.mlp.act_fn, _SILU):
        return f"{written} Llama's layers, not {type(layer).__name__}"
    norms = [layer.input_layernorm, layer.post_attention_layernorm]
    for module, wanted in (*((norm, "LlamaRMSNorm") for norm in norms), (layer.mlp, "LlamaMLP")):
        if type(module).__name__ != wanted:
            return f"{written} {wanted}, not {_kind(module)}"
    for module in _projections(layer):
        if type(module) is not torch.nn.Linear:  # adapters and quantised weights compute more
            return f"{written} torch's own linear projections, not {_kind(module)}"
        if module.bias is not None:
            return f"{written} projections without bias"
    for module in layer.modules():
        if "forward" in vars(module):  # as other kernels and offloading put there
            return f"{written} Llama's layers, but a {_kind(module)} has a forward of its own"
    return None


def _kind(module: Any) -> str:
    return f"{type(module).__module__}.{type(module).__name__}"


def llama_weights(layer: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """What `llama_heads` and `llama_rest` multiply with, in their order.

    Raises `TypeError` for other layers than Llama's.
    """
    if (why := unlike_llama(layer)) is not None:
        raise TypeError(why)
    q, k, v, o, *others = (module.weight for module in _projections(layer))
    before, after = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
    return (before, q, k, v), (o, after, *others)


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Llama's RMS norm."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def _mlp(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, -1)
    return x * cos.unsqueeze(1) + torch.cat([-right, left], -1) * sin.unsqueeze(1)


def _both_rotated(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return _rotated(query, cos, sin), _rotated(key, cos, sin)


def llama_heads(
    states: Tensor,
    weights: tuple[Tensor, ...],
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    place: Tensor,
    *,
    eps: float,
) -> Tensor:
    """Rotated queries `(batch, heads, 1, head_dim)` of one token: the layer up to its attention.

    states `(batch, 1, width)`, cos and sin `(batch, 1, head_dim)`. The token's key and value go
    into `keys` and `values` `(batch, kv_heads, capacity, head_dim)` at `place` `(1,)`.
    """
    norm, q, k, v = weights
    batch, width = states.shape[0], cos.shape[-1]
    hidden = _normed(states, norm, eps)

    def heads(weight: Tensor) -> Tensor:
        return F.linear(hidden, weight).view(batch, 1, -1, width).transpose(1, 2)

    keys.index_copy_(2, place, _rotated(heads(k), cos, sin))
    values.index_copy_(2, place, heads(v))
    return _rotated(heads(q), cos, sin)


def attention_by_products(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """Attention of one token as two products of matrices, `(batch, heads, 1, head_dim)`.

    query of that shape; keys and values `(batch, kv_heads, length, head_dim)`; mask, 0 or -inf,
    `(batch, 1, 1, length)`. The products read keys and values about as fast as memory gives them,
    which PyTorch's own kernels for a single query under a mask do not. Scores are float32.
    """
    batch, heads, _, width = query.shape
    kv_heads, shared = keys.shape[1], heads // keys.shape[1]
    grouped, across = query.reshape(-1, shared, width), keys.flatten(0, 1).mT
    if query.is_cuda:
        scores = torch.bmm(grouped, across, out_dtype=torch.float32)
    else:
        scores = grouped.float() @ across.float()
    scores = scores.view(batch, kv_heads, shared, -1) * scale + mask
    return (scores.softmax(-1).to(values.dtype) @ values).view(batch, heads, 1, width)


def llama_rest(states: Tensor, mixed: Tensor, weights: tuple[Tensor, ...], *, eps: float) -> Tensor:
    """The forward of a Llama layer behind its attention, whose output is `mixed`."""
    o, norm, gate, up, down = weights
    mixed = mixed.transpose(1, 2).reshape(states.shape[0], 1, -1)
    states = states + F.linear(mixed, o)
    return states + _mlp(_normed(states, norm, eps), gate, up, down)


class FusedLayers:
    """The norms, the MLP and the rotation of Llama layers, fused for prompts.

    compiler: torch.compile with its options; what it makes serves all layers.
    """

    def __init__(self, layers: Sequence[Any], compiler: Callable) -> None:
        normed, mlp = compiler(_normed, dynamic=True), compiler(_mlp, dynamic=True)
        self._norms: list[tuple[Any, str, Callable]] = []
        self._mlps: list[tuple[Any, str, Callable]] = []
        for layer in layers:
            (before, *_), (_, after, gate, up, down) = llama_weights(layer)
            norms = (layer.input_layernorm, before), (layer.post_attention_layernorm, after)
            for norm, weight in norms:
                given = {"weight": weight, "eps": norm.variance_epsilon}
                self._norms.append((norm, "forward", functools.partial(normed, **given)))
            given = {"gate": gate, "up": up, "down": down}
            self._mlps.append((layer.mlp, "forward", functools.partial(mlp, **given)))
        # one kernel for each shape: one for all was slower on an H200 (seen, not stored)
        rotated = compiler(_both_rotated, dynamic=False)
        home = sys.modules[type(layers[0].self_attn).__module__]
        self._rotation = home, "apply_rotary_pos_emb", rotated

    @contextmanager
    def used(self) -> Iterator[None]:
        """In the block this thread runs the layers fused.

        Hooks on norms and MLPs are called as ever; an MLP with hooks inside is left as it is.
        """
        mlps = [one for one in self._mlps if not _hooked(one[0])]
        with replaced_here([*self._norms, *mlps, self._rotation]), any_number_of_shapes():
            yield


def any_number_of_shapes() -> AbstractContextManager[None]:
    """In the block torch.compile does not fall back to plain calls after a few shapes.

    Its limits are for code that no graph replays, and count for all decoders of the process.
    """
    limits = {"recompile_limit": _SHAPES, "accumulated_recompile_limit": _SHAPES}
    return torch._dynamo.config.patch(limits)


def _hooked(module: Any) -> bool:
    return any(part._forward_hooks or part._forward_pre_hooks for part in module.children())
