"""A Llama layer's small kernels, fused by torch.compile: a decoding step written out, and a prompt.

A step is a layer's forward without its modules: all weights are arguments, so that one compilation
serves every layer and every length of the cache. A prompt runs through the modules, whose hooks
pruners need; what is fused there is what lies between the projections.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.activations import SiLUActivation

_SILU = (torch.nn.SiLU, SiLUActivation)
#: the function of the model's file that rotates queries and keys
_ROTATION = "apply_rotary_pos_emb"
#: shapes of prompts that are compiled for before the compiler gives up
_SHAPES = 128


def _projections(layer: Any) -> list[Any]:
    attention, mlp = layer.self_attn, layer.mlp
    linear = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    return [*linear, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


def refusal(layer: Any) -> str | None:
    """Why a layer cannot be written out; None if it is Llama's."""
    llama = type(layer).__name__ == "LlamaDecoderLayer" and isinstance(layer.mlp.act_fn, _SILU)
    if not llama:
        return f"compiled=True is written for Llama's layers, not {type(layer).__name__}"
    for module in _projections(layer):
        if type(module) is not torch.nn.Linear:  # adapters and quantised weights compute more
            kind = f"{type(module).__module__}.{type(module).__name__}"
            return f"compiled=True is written for torch's own linear projections, not {kind}"
        if module.bias is not None:
            return "compiled=True is written for projections without bias"
    return None


def llama_weights(layer: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """What `llama_heads` and `llama_rest` multiply with, in their order.

    Raises `TypeError` for other layers than Llama's.
    """
    if (why := refusal(layer)) is not None:
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
    states: Tensor, weights: tuple[Tensor, ...], cos: Tensor, sin: Tensor, *, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries and keys, and values, of one token: `(batch, heads, 1, head_dim)` each.

    states `(batch, 1, width)`, cos and sin `(batch, 1, head_dim)`: the layer up to its attention.
    """
    norm, q, k, v = weights
    batch, width = states.shape[0], cos.shape[-1]
    hidden = _normed(states, norm, eps)

    def heads(weight: Tensor) -> Tensor:
        return F.linear(hidden, weight).view(batch, 1, -1, width).transpose(1, 2)

    return _rotated(heads(q), cos, sin), _rotated(heads(k), cos, sin), heads(v)


def llama_rest(states: Tensor, mixed: Tensor, weights: tuple[Tensor, ...], *, eps: float) -> Tensor:
    """The forward of a Llama layer behind its attention, whose output is `mixed`."""
    o, norm, gate, up, down = weights
    mixed = mixed.transpose(1, 2).reshape(states.shape[0], 1, -1)
    states = states + F.linear(mixed, o)
    return states + _mlp(_normed(states, norm, eps), gate, up, down)


class Prompts:
    """The norms, the MLP and the rotation of Llama layers, fused for prompts.

    compiler: torch.compile with its options; what it makes serves all layers.
    """

    def __init__(self, layers: Sequence[Any], compiler: Callable) -> None:
        normed, mlp = compiler(_normed, dynamic=True), compiler(_mlp, dynamic=True)
        self._forwards: list[tuple[Any, Callable]] = []
        for layer in layers:
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                given = {"weight": norm.weight, "eps": norm.variance_epsilon}
                self._forwards.append((norm, functools.partial(normed, **given)))
            *_, gate, up, down = llama_weights(layer)[1]
            given = {"gate": gate, "up": up, "down": down}
            self._forwards.append((layer.mlp, functools.partial(mlp, **given)))
        self._home = sys.modules[type(layers[0].self_attn).__module__]
        # for any length its kernel takes ten times as long: one for each shape
        self._rotate = compiler(_both_rotated, dynamic=False)

    @contextmanager
    def fused(self) -> Iterator[None]:
        """The layers run fused inside the block; hooks on them are called as ever."""
        with ExitStack() as stack:
            for module, forward in self._forwards:
                module.forward = forward
                stack.callback(delattr, module, "forward")
            stack.callback(setattr, self._home, _ROTATION, getattr(self._home, _ROTATION))
            setattr(self._home, _ROTATION, self._rotate)
            stack.enter_context(torch._dynamo.config.patch(recompile_limit=_SHAPES))
            yield
