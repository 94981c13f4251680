"""FLOPs of a method by every formula, from the sizes of its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...geometry import feature_layer, kept_count
from ...pruning.tome import schedule
from .flops import FORMULAS, Shape, encoder_macs, prefill_flops, vision_flops
from .scorer import scorer_flops


def analytic(
    config: Any, options: Mapping[str, Any] | None, kept: float, text: int
) -> dict[str, float]:
    """Operations of a method for one image.

    Parameters
    ----------
    config : of the model.
    options : `pruner.options()`; None for the unpruned model.
    kept : share of the visual tokens that is left. What `mode="mask"` only hides is computed all
        the same.
    text : positions of the prompt that are not visual.

    Returns
    -------
    The language model's prefill by the `fastv`, `sparsevlm` and `exact` formulas; `vision`, the
    tower and the projector; `scorer`, choosing; and `encoder`, the visual encoder's multiply-adds,
    as the paper counts.
    """
    shape = Shape.of(config)
    merged = None
    if options and options["method"] == "tome":  # it also spares the vision tower work
        tokens = shape.visual_tokens
        merged = schedule(tokens, kept_count(options["keep"], tokens), feature_layer(config))
    layer = options["layer"] if options else 0
    if options and options["mode"] == "mask":
        kept = 1.0
    counts = {
        formula: prefill_flops(
            shape, text=text, kept=kept * shape.visual_tokens, layer=layer, formula=formula
        )
        for formula in FORMULAS
    }
    return counts | {
        "vision": vision_flops(shape, merged=merged),
        "scorer": scorer_flops(shape, options) if options else 0.0,
        "encoder": encoder_macs(shape, merged=merged),
    }
