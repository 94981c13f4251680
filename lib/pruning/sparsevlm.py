"""SparseVLM: text tokens rate the visual ones; what is dropped is partly recycled (2410.04417)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .. import geometry
from ..selection import top_k
from .engine.attention import LayerAttention, Watch
from .engine.choice import best, log_scale
from .engine.images import ImageTokens
from .engine.sequence import Chosen
from .recycling import density_peaks, means, recycled_count
from .staged import StagedPruner

#: tokens of 576 that the stages keep, as released, by the label of the setting
SCHEDULES = {
    "1.5": {"192": (300, 200, 110), "128": (303, 110, 36), "96": (238, 48, 26), "64": (66, 30, 17)},
    "2": {"192": (300, 200, 118), "128": (238, 108, 60), "96": (246, 54, 28), "64": (66, 34, 20)},
}


@dataclass(eq=False, kw_only=True)
class SparseVLM(StagedPruner, name="sparsevlm"):
    """Behind layers 2, 6 and 15 of 32, by the attention that rating text tokens pay.

    Source: Gumpest/SparseVLMs at 26a5f48, `modelling_sparse_llama.py`, `score.py`, `utils.py`.

    Raters, once: text tokens behind the image whose share of the softmax of (visual embedding ·
    text embedding) over the text, averaged over the visual tokens, is above the mean of all. Score
    of a visual token: attention of the layer before the stage from the raters, averaged over heads
    and raters. Recycling ("1.5"): the best-scored 30 % of the dropped are clustered by density
    peaks, one cluster for ten, and the means of the clusters enter behind the kept tokens. Version
    "2" (SparseVLM+) divides the attention by what the positions alone would give, keeps the `heads`
    heads with most attention from raters to image, and recycles nothing.

    schedule: the released counts by their label; they do not average to it, since three layers see
    all tokens and recycled ones come on top (see `average`). keep is the last stage's share without
    recycled tokens; None is the schedule's. positions, recycle: None are the version's: renumbered
    and recycled in 1.5, original and not in 2. order: "appended" as released, or "raster".

    Deviations: batches, padding and several images (raters are the text behind each); the noise
    that parts equal densities is the index instead; a recycled token stands in the place of its
    cluster's centre; without a rater above the mean all text rates. In version 2 the positional
    part can vanish or turn negative far away: it is bounded below at 1 % of its value at distance
    zero.
    """

    keep: float | None = None
    positions: Literal["original", "contiguous"] | None = None
    version: Literal["1.5", "2"] = "1.5"
    schedule: Literal["192", "128", "96", "64"] = "192"
    recycle: bool | None = None
    order: Literal["appended", "raster"] = "appended"
    heads: int = 14

    published_places = (3, 7, 16)
    scorer = ("rate", "score", "select")

    def __post_init__(self) -> None:
        self.one_of(
            version=tuple(SCHEDULES), schedule=tuple(SCHEDULES["2"]), order=("appended", "raster")
        )
        first = self.version == "1.5"
        if self.recycle is None:
            self.recycle = first
        if self.positions is None:
            self.positions = "contiguous" if first else "original"
        if self.keep is None:
            self.keep = self.shares[-1]
        if self.heads < 1:
            raise ValueError(f"heads must be at least 1, got {self.heads}")
        super().__post_init__()

    @property
    def published_ratios(self) -> tuple[float, ...]:
        return tuple(count / 576 for count in SCHEDULES[self.version][self.schedule])

    @property
    def merges(self) -> bool:
        return self.recycle

    @property
    def reorders(self) -> bool:
        return self.recycle and self.order == "appended"

    def _kept_of(self, share: float, tokens: int, before: int) -> int:
        """Tokens that a stage keeps of `before`, recycled ones not counted: never all of them."""
        return max(1, min(geometry.kept_count(min(1.0, share), tokens), before - 1))

    def left(self, tokens: int, scale: float) -> tuple[int, ...]:
        counts, before = [], tokens
        for share in self.shares:
            kept = self._kept_of(share * scale, tokens, before)
            before = kept + (recycled_count(before - kept)[1] if self.recycle else 0)
            counts.append(before)
        return tuple(counts)

    # ---- raters -------------------------------------------------------------------------------

    def attach(self, model: nn.Module) -> None:
        self.hook(self.family.layers[0], self._embedded, before=True)
        self._watched = [Watch(self, layer - 1) for layer in self.stages()]

    def _embedded(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        pass_ = self._current.pass_
        if pass_ is None or not pass_.groups:
            return
        embeddings = args[0] if args else kwargs["hidden_states"]
        raters = pass_.extra["raters"] = {}
        for images in pass_.groups:
            raters |= dict(zip(images.ordinals, self.rate(images, embeddings)))

    def rate(self, images: ImageTokens, embeddings: Tensor) -> Tensor:
        """The raters of each image, bool `(n, places)` over the pass."""
        text = images.text_behind.to(embeddings.device)
        visual = images.take(embeddings).float()
        rows = embeddings[images.rows.to(embeddings.device)].float()
        return raters(visual, rows, text)

    # ---- stages -------------------------------------------------------------------------------

    def score(self, images: ImageTokens) -> Tensor:
        """What the raters attend to, float32 `(n, N)`."""
        pass_ = images.prefill
        attention: LayerAttention = self._watched[images.stage].taken(pass_)
        places, real = pass_.text()
        chosen = torch.stack([pass_.extra["raters"][ordinal] for ordinal in images.ordinals])
        chosen = pass_.at_present(chosen, images.rows)
        places, rows = places.to(attention.device), images.rows.to(attention.device)
        voice = chosen.to(rows.device).gather(1, places[rows]) & real.to(rows.device)[rows]
        weights = attention.weights(places)
        if self.version == "2":
            weights = weights / positional_bias(attention, places)[:, None]
        columns = images.columns.to(rows.device)[:, None, None]
        weights = weights[rows].gather(3, columns.expand(-1, *weights.shape[1:3], -1))
        return rated(weights, voice, self.heads if self.version == "2" else None)

    def select(self, images: ImageTokens) -> Tensor | Chosen:
        scores, tokens = self.score(images).to(images.columns.device), images.tokens
        share = self.shares[images.stage] * self.scale(images.total)
        kept = self._kept_of(share, images.total, tokens)
        chosen, clusters = recycled_count(tokens - kept)
        if not self.recycle or not clusters:
            return best(log_scale(scores), kept)
        scores = log_scale(scores)
        index = top_k(scores, kept, check=False)
        scores = scores.scatter(1, index, -torch.inf)
        return self._recycle(images, index, top_k(scores, chosen, check=False), clusters)

    def _recycle(self, images: ImageTokens, index: Tensor, pool: Tensor, clusters: int) -> Chosen:
        """The kept tokens `(n, k)`, and the means of the clusters of a pool `(n, r)` of others."""
        hidden = images.hidden
        states = _at(hidden, pool)
        centres, labels = density_peaks(states.float(), clusters)
        states = torch.cat([_at(hidden, index), means(states, labels, clusters)], 1)
        index = torch.cat([index, pool.gather(1, centres)], 1)
        if self.order == "raster":
            index, order = index.sort(dim=1)
            states = _at(states, order)
        return Chosen(index, states)


def _at(states: Tensor, index: Tensor) -> Tensor:
    index = index.to(states.device)
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))


def raters(visual: Tensor, rows: Tensor, text: Tensor) -> Tensor:
    """The text that rates an image, bool `(n, places)`.

    visual `(n, N, D)` and rows `(n, places, D)`: embeddings, float32. text: bool `(n, places)`, the
    text behind each image. Without one above the mean, all text rates.
    """
    logits = (visual @ rows.mT).masked_fill(~text[:, None], -torch.inf)
    share = logits.softmax(-1).nan_to_num().mean(1)  # nan: no text at all
    mean = share.sum(-1, keepdim=True) / text.sum(-1, keepdim=True).clamp_min(1)
    # a share that equals the mean but for rounding is not above it
    above = text & (share > mean * (1 + 1e-6))
    return torch.where(above.any(-1, keepdim=True), above, text)


def positional_bias(attention: LayerAttention, places: Tensor) -> Tensor:
    """What queries and keys of ones would give, `(batch, q, positions)`, bounded from below."""
    width = attention.keys.shape[-1]
    length = attention.keys.shape[2] - attention.held
    like = attention.new_keys[:, :1].float()
    everywhere = torch.arange(length, device=like.device).expand(len(like), -1)
    keys = attention.rotate(torch.ones_like(like), everywhere)
    queries = attention.rotate(torch.ones_like(like[:, :, : places.shape[1]]), places)
    bias = (queries.float() @ keys.float().mT)[:, 0] / width**0.5
    return bias.clamp_min(0.01 * width**0.5)


def rated(weights: Tensor, voice: Tensor, heads: int | None) -> Tensor:
    """Mean attention `(n, N)` of the raters, over all heads or those that look most.

    weights `(n, heads, q, N)`; voice: bool `(n, q)`, which of the queries are raters.
    """
    share = voice.float() / voice.sum(-1, keepdim=True).clamp_min(1)
    by_head = (weights * share[:, None, :, None]).sum(2)  # (n, heads, N)
    if heads is not None and heads < by_head.shape[1]:
        index = top_k(by_head.sum(-1), heads, check=False)
        by_head = by_head.gather(1, index[..., None].expand(-1, -1, by_head.shape[-1]))
    return by_head.mean(1)
