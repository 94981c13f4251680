"""One decoding step of a Llama layer, written out so that its small kernels can be fused.

A layer's forward without its modules: all weights are arguments, so that one compilation serves
every layer and every length of the cache.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.activations import SiLUActivation

_SILU = (torch.nn.SiLU, SiLUActivation)


def llama_weights(layer: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """What `llama_heads` and `llama_rest` multiply with, in their order.

    Raises `TypeError` for other layers than Llama's.
    """
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

    states `(batch, 1, width)`, cos and sin `(batch, 1, head_dim)`: the layer up to its attention.
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
