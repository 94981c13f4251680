"""DivPrune: the kept tokens lie as far from each other as they can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..selection import farthest_points
from .engine.graphs import graphs
from .engine.images import ImageTokens
from .engine.pruner import VisualPruner
from .engine.sequence import Chosen


@dataclass(eq=False, kw_only=True)
class DivPrune(VisualPruner, name="divprune"):
    """Max-min diversity of the visual tokens as they enter the pruning layer, in cosine distance.

    CVPR 2025, arXiv 2503.02175; vbdi/divprune @799e2d9. First the token farthest from its nearest
    other one, then always the one farthest from those kept. At layer 0, as published, these are
    the projected tokens; in LLaVA-NeXT all tokens of the packed sequence compete, newlines too.

    order: "raster" is the released code; "picked" leaves the tokens in the order of the picks, as
        some of the paper's numbers were made (vbdi/divprune#8).

    Deviations: distances in float32, where the code keeps the model's precision; a chosen token is
    never chosen again, which copies of tokens make the code do; T = keep · N, rounded half up.
    """

    positions: Literal["original", "contiguous"] = "contiguous"
    order: Literal["raster", "picked"] = "raster"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of(order=("raster", "picked"))

    @property
    def reorders(self) -> bool:
        return self.order == "picked"

    @property
    def vision_only(self) -> bool:
        return self.layer == 0

    def select(self, images: ImageTokens) -> Tensor | Chosen:
        keep = self.budget(images.tokens)
        picks = graphs((type(self), keep), lambda s: _picks(s, keep), [images.hidden])
        if self.reorders:
            return Chosen(picks)
        return torch.zeros_like(images.columns, dtype=torch.bool).scatter_(1, picks, True)


def _picks(states: list[Tensor], keep: int) -> Tensor:
    return farthest_points(states[0], keep, check=False)
