"""CDPruner: a determinantal process of tokens that are diverse and relevant to the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..entropy import unit_tokens
from ..selection import conditional_dpp
from .engine.pieces import Piece
from .engine.text import text_of
from .tower_rule import TowerRule


@dataclass(eq=False, kw_only=True)
class CDPruner(TowerRule, name="cdpruner"):
    """Greedy mode of a DPP with kernel diag(r) S diag(r): S cosines of tokens, r their relevance.

    NeurIPS 2025, arXiv 2506.10967; Theia-4869/CDPruner @9541616. S is that of the projected tokens.
    Relevance is the mean cosine of a token to the rows of a text, negated as published (CLIP's
    patches resemble the texts they do not show), then scaled to (0, 1]. Raster order; with tiles,
    an even share of the budget for each.

    relevance: "prompt" compares the projected tokens with the embeddings of the text behind the
        image. "clip" compares patches and questions in CLIP's joint space, as published: `ask` has
        to be given a CLIP model, whose text tower LLaVA's checkpoints lack. "none": all alike.
    sign: of the relevance. "published" is negative for "clip", and positive for "prompt" as in
        OpenVINO GenAI's form of the method (openvinotoolkit/openvino.genai @da1db864d).
    strength: θ of the variant r ← exp(r θ / (2 (1 - θ))), None: r as it is.

    Deviations: relevance is scaled within an image (a tile), where the code takes the extremes over
    the whole batch; in the determinant what is left of a token counts as at least 1e-5 of it.
    """

    relevance: Literal["prompt", "clip", "none"] = "prompt"
    sign: Literal["published", "positive", "negative"] = "published"
    strength: float | None = None

    vision_only = False
    uses_own_vision = False
    from_record = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of(
            relevance=("prompt", "clip", "none"), sign=("published", "positive", "negative")
        )
        if self.strength is not None and not 0 <= self.strength < 1:
            raise ValueError(f"strength must be in [0, 1), got {self.strength}")

    def ask(self, clip: Any, questions: Sequence[Tensor]) -> None:
        """Say, inside the with-block, what the rows of this thread's next prefills ask.

        clip: a transformers `CLIPModel` whose vision tower is the model's. questions: for each row
        the int64 ids `(chunks, length)` of its question, cut into chunks that CLIP's text tower can
        read (77 tokens).
        """
        rows = [clip.text_projection(clip.text_model(ids)[1]) for ids in questions]
        most = max(map(len, rows))
        states = torch.stack([torch.nn.functional.pad(r, (0, 0, 0, most - len(r))) for r in rows])
        real = torch.tensor([[i < len(r) for i in range(most)] for r in rows], device=states.device)
        self._current.asked = _Asked(clip, states, real)

    def pick(self, piece: Piece) -> Tensor:
        given = [piece.projected]
        if self.relevance != "none":
            given += self._compared(piece)
        return self.captured(self.rule, given, piece.quota).sort(dim=1).values

    def _compared(self, piece: Piece) -> list[Tensor]:
        """What is compared with a text, the text, and which of it is real."""
        if self.relevance == "prompt":
            text = text_of(piece.images)
            return [piece.projected, piece.of_members(text.states), piece.of_members(text.real)]
        asked = getattr(self._current, "asked", None)
        batch = piece.images.prefill.batch
        if asked is None or batch % len(asked.states):
            given = "none were given" if asked is None else f"{len(asked.states)} were given"
            raise ValueError(
                f"relevance='clip' needs a question for each of the {batch} rows, but {given}: "
                "call pruner.ask(clip, questions) in the with-block, or use relevance='prompt'"
            )
        device = piece.images.columns.device
        rows = piece.of_members(piece.images.rows.to(device)) // (batch // len(asked.states))
        patches = asked.project(piece.features).to(device)
        return [patches, asked.states.to(device)[rows], asked.real.to(device)[rows]]

    def rule(self, given: list[Tensor], *, quota: int) -> Tensor:
        """Picks `(m, quota)` in order, of tokens `(m, P, D)` and what `_compared` gives."""
        tokens = given[0]
        if len(given) == 1:
            quality = torch.ones(tokens.shape[:2], device=tokens.device)
        else:
            quality = self.scaled(mean_cosine(*given[1:]))
        return conditional_dpp(tokens, quality, quota, check=False)

    def scaled(self, relevance: Tensor) -> Tensor:
        """Relevance `(m, P)` with its sign, in (0, 1] for each piece; 1 where all are alike."""
        positive = self.sign == "positive" or (
            self.sign == "published" and self.relevance == "prompt"
        )
        signed = relevance if positive else -relevance
        low, high = signed.amin(1, keepdim=True), signed.amax(1, keepdim=True)
        wide = high - low > 1e-6
        quality = torch.where(wide, (signed - low + 1e-6) / torch.where(wide, high - low, 1), 1)
        if self.strength is None:
            return quality
        return torch.exp(quality * self.strength / (2 * (1 - self.strength)))


class _Asked(NamedTuple):
    """Questions of rows in CLIP's joint space, `(rows, chunks, d)`, and which chunks are real."""

    clip: Any
    states: Tensor
    real: Tensor

    def project(self, features: Tensor) -> Tensor:
        """Patches of the tower, as the projector reads them, in CLIP's joint space."""
        norm = self.clip.vision_model.post_layernorm
        features = features.to(norm.weight.device, norm.weight.dtype)
        return self.clip.visual_projection(norm(features))


def mean_cosine(tokens: Tensor, text: Tensor, real: Tensor) -> Tensor:
    """The mean cosine of each token `(m, P, D)` to the real ones of `text` `(m, q, D)`, `(m, P)`.

    >>> text = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> mean_cosine(torch.tensor([[[2.0, 0.0]]]), text, torch.tensor([[True, False]])).tolist()
    [[1.0]]
    """
    rows = unit_tokens(text, check=False) * real[..., None]
    mean = rows.sum(1, keepdim=True) / real.sum(1).clamp(min=1)[:, None, None]
    return (unit_tokens(tokens, check=False) @ mean.mT).squeeze(-1)
