"""This study's own: choose what stands best for what the prompt asks about."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..entropy import effective_rank
from ..selection import Worth, rank_budgets, weighted, weighted_operator
from ..selection.adaptive_budget import most_tokens
from .engine import tower
from .engine.attention import LayerAttention, Watch
from .engine.choice import log_scale
from .engine.count import OwnCount
from .engine.graphs import graphs
from .engine.images import ImageTokens
from .states import StatePruner


@dataclass(eq=False, kw_only=True)
class WeightedPrune(OwnCount, StatePruner, name="weighted"):
    """Coverage, entropy or volume of the kept tokens, each token weighted by attention.

    FastV keeps what is looked at, and finds ten tokens of one region; coverage and entropy spread
    over the picture, wherever anybody looks. Here attention says how much a token matters, and the
    kept ones are those that stand best for all the others, see `lib.selection.weighted`.

    source, layers: whose states are compared, the last of `layers`; by default the visual tokens as
        they enter the pruning layer.
    attention: what weighs a token. "last": attention of layer K-1; "mean": the mean over all layers
        before K; "value": that of layer K-1, times the length of each head's value; "tower": what
        it receives in the vision tower's last used block; "none": nothing.
    query: who attends: the prompt's "last" token, or the mean over the "text" behind the image.
    power, uniform: weights are raised to the power, then mixed with that share of equal ones.
    cover, entropy, volume, relevance: how much each term counts, see `lib.selection.weighted`.
    floor: share of the budget that goes first to what is attended to most, as in FastV.
    form: "greedy", or "one-shot", by what is lost with each token alone.
    count: "exact", or "adaptive": budgets in proportion to the effective rank of the image's tokens
        (of the weighted operator if `entropy` counts), to the power `rank_power`, at most `bound`
        times the usual. `typical` is the rank that gets the usual one: calibrate it on other images
        with `lib.selection.typical_rank`.
    """

    source: Literal["vision", "language"] = "language"
    layer: int = 2
    attention: Literal["last", "mean", "value", "tower", "none"] = "last"
    query: Literal["last", "text"] = "last"
    power: float = 1.0
    uniform: float = 0.0
    cover: float = 1.0
    entropy: float = 0.0
    volume: float = 0.0
    relevance: float = 0.0
    floor: float = 0.0
    form: Literal["greedy", "one-shot"] = "greedy"
    count: Literal["exact", "adaptive"] = "exact"
    typical: float | None = None
    rank_power: float = 1.0
    bound: float = 2.0

    vision_only = False
    tower_alone = False
    scorer = ("weights", "select")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of(
            attention=("last", "mean", "value", "tower", "none"), query=("last", "text"),
            form=("greedy", "one-shot"), count=("exact", "adaptive"),
        )  # fmt: skip
        Worth(**self._terms)
        for name, low, high in (("uniform", 0, 1), ("floor", 0, 1), ("power", 0, float("inf"))):
            if not low <= (value := getattr(self, name)) <= high:
                raise ValueError(f"{name} must be in {low}..{high}, got {value}")
        if self.layer == 0 and self.attention in ("last", "mean", "value"):
            raise ValueError(
                f"attention={self.attention!r} is that of language layers before `layer`, and "
                "there are none before 0; use a later layer, or attention='tower'"
            )
        if self.count == "adaptive":
            if self.typical is None:
                raise ValueError(
                    "count='adaptive' needs typical, the effective rank of an image that gets the "
                    "usual budget; calibrate it with lib.selection.typical_rank"
                )
            rank_budgets(torch.ones(1), 1, self.typical, 1, power=self.rank_power, bound=self.bound)

    @property
    def _terms(self) -> dict[str, float]:
        names = ("cover", "entropy", "volume", "relevance")
        return {name: getattr(self, name) for name in names}

    @property
    def uses_own_vision(self) -> bool:
        return self.attention == "tower"

    def at_most(self, tokens: int) -> int:
        return most_tokens(self.budget(tokens), tokens, self.bound)

    # ---- weights ------------------------------------------------------------------------------

    def attach(self, model: nn.Module) -> None:
        super().attach(model)
        if self.attention == "tower":
            self._block = self.family.feature_layer() - 1
            self._tower = tower.watch_projections(self, self._block)
        elif self.attention != "none":
            first = 0 if self.attention == "mean" else self.layer - 1
            names = "qkv" if self.attention == "value" else "qk"
            self._watched = [Watch(self, i, names) for i in range(first, self.layer)]

    def weights(self, images: ImageTokens) -> Tensor | None:
        """What each token is attended, float32 `(n, N)` of mean one; None: nothing is looked at."""
        if self.attention == "none":
            return None
        if self.attention == "tower":
            found = tower.received(images, self.family, self._tower, self._block)
        else:
            taken = [watch.taken(images.prefill) for watch in self._watched]
            device = images.columns.device
            found = torch.stack([self._attended(images, one).to(device) for one in taken]).mean(0)
        found = found.float().clamp_min(0) ** self.power
        mean = found.mean(1, keepdim=True)
        return torch.where(mean > 0, found / torch.where(mean > 0, mean, 1), 1)

    def _attended(self, images: ImageTokens, attention: LayerAttention) -> Tensor:
        """What the query, or the mean of several, pays to the visual tokens, `(n, N)`."""
        pass_, device = images.prefill, attention.device
        rows = images.rows.to(device)
        if self.query == "last":
            places = attention.last(pass_)
            voice = torch.ones(len(rows), 1, device=device)
        else:
            places, real = (found.to(device) for found in pass_.text())
            behind = pass_.at_present(images.text_behind, images.rows).to(device)
            voice = (behind.gather(1, places[rows]) & real[rows]).float()
        seen = attention.weights(places)  # (batch, heads, q, positions)
        if attention.values is not None:
            length = attention.values.float().norm(dim=-1)  # (batch, groups, positions)
            groups = seen.shape[1] // length.shape[1]
            seen = seen * length.repeat_interleave(groups, 1)[:, :, None]
        seen = images.take(seen.mean(1).mT).to(device)  # (n, N, q)
        return (seen @ voice[..., None]).squeeze(-1) / voice.sum(1, keepdim=True).clamp_min(1)

    # ---- the choice ---------------------------------------------------------------------------

    def select(self, images: ImageTokens) -> Tensor:
        states, weights = self.layer_states(images)[-1], self.weights(images)
        if weights is None:
            weights = torch.ones(states.shape[:2], device=states.device)
        budget = self.budget(images.tokens)
        # On CUDA a repeated call replays a captured graph: all but the tensors is in the key.
        key = (type(self), tuple(self.options().items()), budget)
        return graphs(key, functools.partial(self._select, budget=budget), [states, weights])

    def _select(self, given: list[Tensor], *, budget: int) -> Tensor:
        states, attended = given
        weights = attended * (1 - self.uniform) + self.uniform
        size, worth = states.shape[1], Worth(**self._terms)
        most = self.most(size) if self.count == "adaptive" else budget
        order = weighted(
            states, most, weights, worth=worth, first=int(self.floor * budget + 0.5),
            priority=log_scale(attended), one_shot=self.form == "one-shot", check=False,
        )  # fmt: skip
        mask = torch.zeros(states.shape[:2], dtype=torch.bool, device=states.device)
        if self.exact:
            return mask.scatter_(1, order, True)
        own = self.budgets(states, weights, budget)
        place = torch.arange(most, device=order.device)
        return mask.scatter_(1, order, place < own[:, None])

    def budgets(self, states: Tensor, weights: Tensor, budget: int) -> Tensor:
        """Tokens to keep of each image by the rank of its tokens, int64 `(n,)`."""
        return rank_budgets(
            self.spans(states, weights), budget, self.typical, states.shape[1],
            power=self.rank_power, bound=self.bound,
        )  # fmt: skip

    def spans(self, states: Tensor, weights: Tensor) -> Tensor:
        """Effective rank of each image's tokens, or of their weighted operator, `(n,)`."""
        if not self.entropy:
            return effective_rank(states, check=False)
        return effective_rank(
            weighted_operator(states, weights, check=False), gram=True, check=False
        )
