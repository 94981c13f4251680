"""FLOPs of a method by every formula, from the sizes of its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...geometry import feature_layer
from ...pruning import create
from ...pruning.tome import schedule
from .flops import FORMULAS, Shape, encoder_macs, layered_flops, vision_flops
from .scorer import scorer_flops


def analytic(
    config: Any, options: Mapping[str, Any] | None, kept: float, text: int
) -> dict[str, float]:
    """Operations of a method for one image.

    Parameters
    ----------
    config : of the model.
    options : `pruner.options()`; None for the unpruned model.
    kept : share of the visual tokens that is left, where the method's options do not say it.
    text : positions of the prompt that are not visual.

    Returns
    -------
    The language model's prefill by the `fastv`, `sparsevlm` and `exact` formulas; `vision`, the
    tower and the projector; `scorer`, choosing; and `encoder`, the visual encoder's multiply-adds,
    as the paper counts.
    """
    shape = Shape.of(config)
    merged, counts = None, [shape.visual_tokens * kept] * shape.layers
    if options:
        pruner = create(options["method"], **{k: v for k, v in options.items() if k != "method"})
        tokens = shape.visual_tokens
        layer = pruner.stage_counts(tokens, shape.layers)[0][0]
        counts = [float(tokens)] * layer + counts[layer:]
        if pruner.exact:  # several stages, too
            counts = pruner.layer_counts(tokens, shape.layers)
        if options["method"] == "tome":  # it also spares the vision tower work
            merged = schedule(tokens, pruner.budget(tokens), feature_layer(config))
    return {
        formula: layered_flops(shape, counts, text=text, formula=formula) for formula in FORMULAS
    } | {
        "vision": vision_flops(shape, merged=merged),
        "scorer": scorer_flops(shape, options, text) if options else 0.0,
        "encoder": encoder_macs(shape, merged=merged),
    }
