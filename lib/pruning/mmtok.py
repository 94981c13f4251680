"""MMTok: keep the tokens that cover both what the prompt asks and what the image shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..entropy import unit_tokens
from ..selection import facility_location
from .engine.pieces import Piece
from .engine.text import text_of
from .tower_rule import TowerRule


@dataclass(eq=False, kw_only=True)
class MMTok(TowerRule, name="mmtok"):
    """Greedy maximum coverage of text tokens and visual tokens by visual tokens.

    ICLR 2026, arXiv 2508.18264; Ironieser/MMTok @d1522cd. Every text token spreads a weight of 1/m
    over the visual tokens, softmax(cos(text embedding, projected token) / text_temperature); every
    visual token alpha/N, softmax(cos of the tower's features / vision_temperature). Pick by pick
    the token that adds most to the sum of the largest weights kept. Raster order.

    Deviations: the text is every token behind the image, the chat template's tail included, where
    the code is given the question and takes stop words out of it. Beyond layer 0 text and visual
    tokens are compared as they enter the pruning layer. Tiles are covered together; newlines stay
    only where everything does. Padding of the image is not excluded (an option of the code).
    """

    alpha: float = 0.5
    text_temperature: float = 0.02
    vision_temperature: float = 0.2
    tiles: Literal["each", "together"] = "together"

    vision_only = False
    uses_own_vision = False
    from_record = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alpha >= 0:
            raise ValueError(f"alpha must be at least 0, got {self.alpha}")
        for name in ("text_temperature", "vision_temperature"):
            if not (value := getattr(self, name)) > 0:
                raise ValueError(f"{name} must be positive, got {value}")

    def pick(self, piece: Piece) -> Tensor:
        text = text_of(piece.images)
        said = [piece.of_members(part) for part in text]
        given = [piece.features, piece.projected, *said]
        return self.captured(self.rule, given, piece.quota).sort(dim=1).values

    def rule(self, given: list[Tensor], *, quota: int) -> Tensor:
        """Picks `(m, quota)` in order.

        Of features `(m, P, d)`, tokens `(m, P, D)`, text `(m, q, D)` and which of it is real.
        """
        features, tokens, text, real = given
        seen, own, asked = (unit_tokens(one, check=False) for one in (features, tokens, text))
        number = real.sum(1).clamp(min=1)[:, None, None]
        text_rows = (asked @ own.mT / self.text_temperature).softmax(-1) / number
        text_rows = text_rows * real[..., None]
        rows = (seen @ seen.mT / self.vision_temperature).softmax(-1) * (self.alpha / seen.shape[1])
        return facility_location(torch.cat([text_rows, rows], 1), quota, check=False)
