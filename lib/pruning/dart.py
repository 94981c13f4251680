"""DART: keep what duplicates a few pivots least (arXiv 2502.11494)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..selection import top_k
from .engine.attention import Watch
from .engine.choice import ranks
from .engine.images import ImageTokens
from .engine.pruner import VisualPruner


@dataclass(eq=False, kw_only=True)
class DART(VisualPruner, name="dart"):
    """Pivots by the size of their keys; each brings in the tokens that resemble it least.

    Source: the authors' code as vendored in Chenfei-Liao/VTC-Bench at 983e443,
    `external/DART/llava/model/language_model/modeling_llama_self.py`. Pivots are the visual tokens
    and the text tokens behind the image (4 each) whose rotated keys of layer K-1, heads joined,
    have the largest L1 norm. In turn each pivot takes, among the visual tokens not kept yet, those
    with the lowest cosine to it; the states compared are those that enter layer K, behind the
    model's final norm. Visual pivots stay, too; raster order, original positions.

    count: "exact" keeps `budget(N)` tokens: what the visual pivots leave is shared evenly, earlier
    pivots taking one more. "published": 4 + 8·⌊share·N / 8⌋, which can be a little over the budget.

    Deviations: the release walks through a Python set of pivots, whose order depends on hashes of
    positions; here visual pivots come first, then text, each by position (as small integers hash).
    Padding and other images are no pivots; a prompt with less text has fewer. Keys are as they are
    stored, one head a group.
    """

    layer: int = 2
    count: Literal["exact", "published"] = "exact"
    visual_pivots: int = 4
    text_pivots: int = 4

    first_layer = 1
    scorer = ("select",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of(count=("exact", "published"))
        for name, least in (("visual_pivots", 1), ("text_pivots", 0)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")

    def budget(self, tokens: int) -> int:
        if self.count == "exact":
            return super().budget(tokens)
        wanted = self.keep * tokens if self.average is None else super().budget(tokens)
        pivots = self.visual_pivots + self.text_pivots
        return min(tokens, self.visual_pivots + pivots * int(wanted / pivots + 1e-9))

    def attach(self, model: nn.Module) -> None:
        self._watch = Watch(self, self.layer - 1)

    def select(self, images: ImageTokens) -> Tensor:
        pass_ = images.prefill
        keys = self._watch.taken(pass_).new_keys
        size = keys.abs().float().sum((1, 3))  # L1 over heads and width, (batch, positions)
        states = self.family.language.norm(pass_.entering)
        text, there = self._text_pivots(images, size)
        rows = images.rows.to(states.device)[:, None]
        return duplication_aware(
            images.take(states).float(),
            images.take(size),
            states[rows, text.to(states.device)].float(),
            there.to(states.device),
            count=self.budget(images.tokens),
            pivots=self.visual_pivots,
        )

    def _text_pivots(self, images: ImageTokens, size: Tensor) -> tuple[Tensor, Tensor]:
        """Positions `(n, p)` of the text behind the images with the largest keys; which are any."""
        text = images.prefill.at_present(images.text_behind, images.rows).to(size.device)
        own = size[images.rows.to(size.device)].masked_fill(~text, -torch.inf)
        number = min(self.text_pivots, own.shape[1])
        if not number:
            return text.new_zeros(len(text), 0, dtype=torch.int64), text[:, :0]
        place = top_k(own, number, check=False)
        return place, text.gather(1, place)


def duplication_aware(
    states: Tensor, size: Tensor, text: Tensor, there: Tensor, *, count: int, pivots: int
) -> Tensor:
    """Tokens kept, bool `(n, N)`: visual pivots, and what each pivot in turn resembles least.

    states `(n, N, D)` with key sizes `(n, N)`; text `(n, p, D)`, the text pivots, of which `there`
    `(n, p)` are real. Shares are even, the first pivots take one more.

    Raises `ValueError` for a count that no image has (by way of `top_k`).
    """
    states, text = normalize(states, dim=-1), normalize(text, dim=-1)
    first = top_k(size, min(pivots, count), check=False)
    kept = torch.zeros_like(size, dtype=torch.bool).scatter_(1, first, True)
    index = first[..., None].expand(-1, -1, states.shape[2])
    everyone = torch.cat([states.gather(1, index), text], 1)
    real = torch.cat([torch.ones_like(first, dtype=torch.bool), there], 1)
    rest, number = count - first.shape[1], real.sum(1)
    quota = rest // number[:, None] + (real.long().cumsum(1) <= rest % number[:, None])
    quota = torch.where(real, quota, 0)
    for pivot, own in zip(everyone.unbind(1), quota.unbind(1)):
        far = -(states @ pivot[..., None]).squeeze(-1)
        order = ranks(far.masked_fill(kept, -torch.inf))
        kept = kept | (order < own[:, None])
    return kept
