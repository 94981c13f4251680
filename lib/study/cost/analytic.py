"""FLOPs of a method by every formula, from the sizes of its model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from ...geometry import feature_layer
from ...pruning import create
from ...pruning.downsample import Downsample
from ...pruning.in_tower import InTower
from .flops import FORMULAS, Shape, encoder_macs, layered_flops, vision_flops
from .scorer import scorer_flops


class Visual(NamedTuple):
    """What an image is to a model whose images differ.

    tokens: visual tokens of an image. parts: tiles or frames with a budget of their own. vision:
    operations of the tower and the projector, counted.
    """

    tokens: int
    parts: int
    vision: float


def analytic(
    config: Any,
    options: Mapping[str, Any] | None,
    kept: float,
    text: int,
    visual: Visual | None = None,
) -> dict[str, float]:
    """Operations of a method for one image.

    Parameters
    ----------
    config : of the model.
    options : `pruner.options()`; None for the unpruned model.
    kept : share of the visual tokens that is left, where the method's options do not say it. What
        `mode="mask"` only hides is computed all the same.
    text : positions of the prompt that are not visual.
    visual : of the image, where the tower is no plain CLIP or SigLIP with an image a row.

    Returns
    -------
    The language model's prefill by the `fastv`, `sparsevlm` and `exact` formulas; `vision`, the
    tower and the projector; `scorer`, choosing; and `encoder`, the visual encoder's multiply-adds,
    as the paper counts.
    """
    if visual is not None:
        return _of_parts(config, options, kept, text, visual)
    shape = Shape.of(config)
    pruner, counts = _per_layer(shape, options, kept)
    merged, seen = None, shape
    if isinstance(pruner, InTower):  # it also spares the vision tower work
        used = feature_layer(config)
        merged = pruner.reductions(shape.visual_tokens, shape.vision_layers, used)
    if isinstance(pruner, Downsample):
        seen = dataclasses.replace(shape, visual_tokens=pruner.most(shape.visual_tokens))
    return _prefill(shape, counts, text) | {
        "vision": vision_flops(seen, merged=merged),
        "scorer": scorer_flops(shape, options, text) if options else 0.0,
        "encoder": encoder_macs(seen, merged=merged),
    }


def _of_parts(
    config: Any, options: Mapping[str, Any] | None, kept: float, text: int, visual: Visual
) -> dict[str, float]:
    """The same with the tower's operations counted, and choosing done in every part."""
    shape = Shape.of(config, visual.tokens)
    part = Shape.of(config, max(1, visual.tokens // visual.parts))
    choosing = visual.parts * scorer_flops(part, options, text) if options else 0.0
    return _prefill(shape, _per_layer(shape, options, kept)[1], text) | {
        "vision": visual.vision, "scorer": choosing, "encoder": visual.vision / 2,
    }  # fmt: skip


def _per_layer(
    shape: Shape, options: Mapping[str, Any] | None, kept: float
) -> tuple[Any, list[float]]:
    """The pruner of some options, and the visual tokens that each language layer processes."""
    tokens = shape.visual_tokens
    counts = [tokens * kept] * shape.layers
    if not options:
        return None, counts
    pruner = create(options["method"], **{k: v for k, v in options.items() if k != "method"})
    if pruner.mode == "mask":  # hidden, but computed
        return pruner, [float(tokens)] * shape.layers
    if pruner.exact:  # several stages, too
        return pruner, pruner.layer_counts(tokens, shape.layers)
    layer = pruner.stage_counts(tokens, shape.layers)[0][0]
    return pruner, [float(tokens)] * layer + counts[layer:]


def _prefill(shape: Shape, counts: list[float], text: int) -> dict[str, float]:
    return {
        formula: layered_flops(shape, counts, text=text, formula=formula) for formula in FORMULAS
    }
