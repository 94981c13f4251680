"""LLaVolta's visual context compressor: neighbours in the sequence become their mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..entropy import constants
from .engine.images import ImageTokens
from .engine.pruner import VisualPruner
from .engine.sequence import Chosen


@dataclass(eq=False, kw_only=True)
class LLaVolta(VisualPruner, name="llavolta"):
    """Average pooling of the visual tokens, in raster order, as they enter layer g = `layer`.

    NeurIPS 2024, arXiv 2406.20092; Beckschen/LLaVolta @31ec151. Runs of s = N / T consecutive
    tokens become their mean, at the mean of their positions rounded down: that of the run's middle
    token, in whose place it stands. No attention is read, and tokens of different rows are averaged
    only where a row ends. "Heavy" is s = 8 before layer 2 (the default layer), "light" s = 8 before
    layer 16; published as training regimes, whose models run uncompressed at test time. Here, as in
    the paper's probing experiment, it is a method without training.

    Deviations: where T does not divide N, runs differ by one token, so that the count is exact; the
    code drops the remainder. Positions are whole numbers throughout (the code pools them in half
    precision, exact to 2048). In LLaVA-NeXT the packed sequence is pooled, newlines included.
    """

    layer: int = 2

    merges = True

    @property
    def vision_only(self) -> bool:
        return self.layer == 0

    def select(self, images: ImageTokens) -> Chosen:
        hidden = images.hidden
        middles, weights = runs(images.tokens, self.budget(images.tokens), hidden.device)
        states = (weights @ hidden.float()).to(hidden.dtype)
        return Chosen(middles.expand(images.count, -1), states)


@constants
def runs(tokens: int, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """k runs of `tokens`: their middles `(k,)`, and weights `(k, tokens)` of their means.

    >>> runs(6, 2, torch.device("cpu"))[0].tolist()
    [1, 4]
    """
    inside = torch.arange(tokens) * k // tokens == torch.arange(k)[:, None]
    size = inside.sum(1)
    middles = inside.long().argmax(1) + (size - 1) // 2
    return middles.to(device), (inside.float() / size[:, None]).to(device)
