"""Floating-point operations of a caption: language model, vision tower, and choosing itself.

The three formulas in use (FastV's, SparseVLM's, and the full count with a multiply-add as two
operations), the visual encoder's multiply-adds as the paper counts them, and PyTorch's own counter.
Nothing here imports a model: sizes come from configurations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ...geometry import patches

FORMULAS = ("fastv", "sparsevlm", "exact")


@dataclass(frozen=True)
class Shape:
    """The sizes that determine the cost of a LLaVA, read from its configuration.

    >>> Shape(4096, 11008, 32, 32, 32, 32064, 1024, 4096, 23, 14, 576).visual_tokens
    576
    """

    width: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    vision_width: int
    vision_mlp: int
    vision_layers: int  # blocks that run: the last one runs too, although its output is not read
    patch: int
    visual_tokens: int  # of one image

    @classmethod
    def of(cls, config: Any, tokens: int | None = None) -> Shape:
        """From a configuration; tokens: visual ones of an image, where they differ by image.

        For towers that merge patches, `vision_flops` and `encoder_macs` do not apply.
        """
        text, vision = config.text_config, config.vision_config
        blocks = getattr(vision, "depth", None) or vision.num_hidden_layers
        patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
        return cls(
            text.hidden_size,
            text.intermediate_size,
            text.num_hidden_layers,
            text.num_attention_heads,
            text.num_key_value_heads,
            text.vocab_size,
            vision.hidden_size,
            vision.intermediate_size,
            blocks,
            patch,
            patches(config) if tokens is None else tokens,
        )


def layer_flops(shape: Shape, tokens: float, formula: str = "exact") -> float:
    """Operations of one language layer on a sequence of `tokens`.

    "fastv": 4nd^2 + 2n^2d + 2ndm (arXiv 2403.06764, section 4.1; multiply-adds, MLP of two
    matrices). "sparsevlm": 4nd^2 + 2n^2d + 3ndm (arXiv 2410.04417; LLaMA's MLP has three). "exact":
    twice SparseVLM's, a multiply-add being two operations, with grouped keys and values.

    Raises `ValueError` for another formula.
    """
    n, d, m = tokens, shape.width, shape.mlp
    if formula == "fastv":
        return 4 * n * d**2 + 2 * n**2 * d + 2 * n * d * m
    if formula == "sparsevlm":
        return 4 * n * d**2 + 2 * n**2 * d + 3 * n * d * m
    if formula == "exact":
        projections = 2 * d**2 * (1 + shape.kv_heads / shape.heads)
        return 2 * (n * projections + 2 * n**2 * d + 3 * n * d * m)
    raise ValueError(f"formula must be one of {FORMULAS}, got {formula!r}")


def prefill_flops(
    shape: Shape, *, text: int, kept: float, layer: int = 0, formula: str = "exact"
) -> float:
    """Operations of the language model's prefill, its head (one position) included in "exact".

    text: positions that are not visual; kept: visual tokens left from language layer `layer` on.
    """
    counts = [float(shape.visual_tokens)] * layer + [kept] * (shape.layers - layer)
    return layered_flops(shape, counts, text=text, formula=formula)


def layered_flops(
    shape: Shape, counts: Sequence[float], *, text: int, formula: str = "exact"
) -> float:
    """`prefill_flops` of a prefill whose layers process these numbers of visual tokens."""
    total = math.fsum(layer_flops(shape, count + text, formula) for count in counts)
    return total + (2 * shape.width * shape.vocabulary if formula == "exact" else 0)


def vision_flops(shape: Shape, *, merged: Sequence[int] | None = None) -> float:
    """Operations of the CLIP tower and the projector for one image, multiply-adds as two.

    merged: tokens that ToMe merges in each block (between its attention and its MLP).
    """
    d = shape.vision_width
    left = shape.visual_tokens - sum(merged or ())
    projector = 2 * left * (d * shape.width + shape.width**2)  # two layers
    return 2 * encoder_macs(shape, merged=merged) + projector


def encoder_macs(shape: Shape, *, merged: Sequence[int] | None = None) -> float:
    """Multiply-adds of the visual encoder alone for one image: what the paper calls FLOPs.

    merged: as in `vision_flops`; the similarities that ToMe compares count as well.
    """
    d, m, n = shape.vision_width, shape.vision_mlp, shape.visual_tokens + 1
    total = float(shape.visual_tokens * 3 * shape.patch**2 * d)  # patch embedding
    for block in range(shape.vision_layers):
        total += 4 * n * d**2 + 2 * n**2 * d
        r = merged[block] if merged is not None and block < len(merged) else 0
        total += (n // 2 + n % 2) * (n // 2) * (d // 16) if r else 0  # similarities
        n -= r
        total += 2 * n * d * m
    return total


def attention_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any
) -> int:
    """Operations of attention of these shapes (batch, heads, length, width); keys may be shared.

    >>> attention_flops((1, 8, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4))
    1920
    """
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[-2] * (width + value[-1])


#: fused attention of a GPU, as the counter knows operations
_FUSED = {
    getattr(torch.ops.aten, name): attention_flops
    for name in (
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
    )
    if hasattr(torch.ops.aten, name)
}


def counted_flops(function: Callable[[], Any], *, device: torch.device | str = "cpu") -> float:
    """Operations of matrix products and attention in one call, by PyTorch's counter.

    On a CPU attention is computed product by product meanwhile: the counter does not know the
    fused one, nor those of a GPU where several heads share a key. Element-wise work,
    eigen-decompositions and Cholesky factors are not counted by it.
    """
    on_cpu = torch.device(device).type == "cpu"
    with (
        sdpa_kernel(SDPBackend.MATH) if on_cpu else nullcontext(),
        FlopCounterMode(display=False, custom_mapping=_FUSED) as counter,
    ):
        function()
    return float(counter.get_total_flops())
