"""PyramidDrop: fewer tokens after each quarter of the depth (arXiv 2410.17247)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .engine.attention import LayerAttention, ahead
from .engine.choice import best, log_scale
from .engine.images import ImageTokens
from .staged import StagedPruner


@dataclass(eq=False, kw_only=True)
class PyramidDrop(StagedPruner, name="pyramiddrop"):
    """Before layers 8, 16 and 24 of 32: half of the visual tokens, a quarter, an eighth.

    Source: Cooperx521/PyramidDrop at 6444f30, `modeling_llama_pdrop.py`. Each stage ranks by the
    attention that the next layer's weights would give, from the last instruction token, averaged
    over heads; kept tokens stay in raster order and everything behind them is renumbered.

    Deviations: rows may be padded on either side, images may differ in length, a prompt may hold
    several of them and continue earlier turns, whose keys take their part of the attention; grouped
    keys are shared by their queries; counts are rounded to the nearest instead of down. Nothing is
    cut at the tokenizer's maximal length. The variant for training, which averages over all tokens
    before an answer, is not offered. positions="original" is the choice of later methods.
    """

    keep: float = 0.125
    positions: Literal["original", "contiguous"] = "contiguous"

    published_places = (8, 16, 24)
    published_ratios = (0.5, 0.25, 0.125)
    earliest = 0
    scorer = ("score", "select")

    def score(self, images: ImageTokens) -> Tensor:
        """Attention of the last token to the visual tokens in the layer ahead, `(n, N)`."""
        attention: LayerAttention = self._ahead(images)
        return images.take(attention.rows(attention.last(images.prefill))[:, 0])

    def select(self, images: ImageTokens) -> Tensor:
        return best(log_scale(self.score(images)), self.plan(images.total)[images.stage])

    def _ahead(self, images: ImageTokens) -> LayerAttention:
        """Computed once a stage, whatever the number of groups."""
        pass_, key = images.prefill, f"ahead {images.stage}"
        if key not in pass_.extra:
            pass_.extra[key] = ahead(pass_, self.family)
        return pass_.extra[key]
