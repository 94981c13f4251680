"""Claims about attention to image tokens (Figure 1)."""

from __future__ import annotations

import numpy as np

from .evidence import Evidence
from .verdicts import Claim, Verdict, decide, untestable

__all__ = ["CLAIMS"]

#: what the paper prints for an image token, as a share of a system token's
PRINTED = 0.0021
#: a ratio within this factor of the printed one counts as the same size
FACTOR = 5
NOTHING = "no attention over many images is stored (population.json)"


def _decays(evidence: Evidence) -> Verdict:
    """Per token and layer, image over system prompt: before layer 2, and from it on."""
    found = evidence.measure("attention", "image / system")
    if found is None:
        return untestable(NOTHING)
    ratios = np.array(found["mean"], dtype=float)
    if len(ratios) < 3:
        return untestable("the language model has fewer than three layers")
    first, later = float(ratios[:2].mean()), float(np.median(ratios[2:]))
    text = (
        f"an image token gets {_percent(first)} of what a token before the image gets in layers 0 "
        f"and 1, {_percent(later)} in the median later layer, {_percent(ratios[2:].max())} at most"
    )
    return decide(later < first / 10, text, _record(found))


def _printed(evidence: Evidence) -> Verdict:
    found = evidence.measure("attention", "image / system, layer 2 on")
    if found is None:
        return untestable(NOTHING)
    middle = found["median"]
    text = (
        f"from layer 2 on {_percent(middle)} (95 % of the images: {_percent(found['low'])} to "
        f"{_percent(found['high'])}); the paper: {_percent(PRINTED)}"
    )
    return decide(PRINTED / FACTOR <= middle <= PRINTED * FACTOR, text, _record(found))


def _record(found: dict) -> str:
    return f"population.json: attention ({found['n']} images)"


def _percent(share: float) -> str:
    """A share with two digits.

    >>> _percent(0.0021), _percent(0.153), _percent(2.5)
    ('0.21 %', '15 %', '250 %')
    """
    value = 100 * float(share)
    return f"{value:.0f} %" if value >= 10 else f"{value:.2g} %"


CLAIMS = (
    Claim(
        "Attention to image tokens collapses after layer 2",
        "Figure 1",
        "the median later layer gives an image token less than a tenth of its share in layers 0, 1",
        _decays,
    ),
    Claim(
        "From layer 2 on an image token gets 0.21 % of a system token's attention",
        "Figure 1",
        f"the median over images lies within a factor of {FACTOR} of that",
        _printed,
    ),
)
