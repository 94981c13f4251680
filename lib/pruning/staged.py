"""Pruning in several stages: fewer visual tokens the deeper the language model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from .. import geometry
from .engine.averages import by_layer
from .engine.pruner import VisualPruner


@dataclass(eq=False, kw_only=True)
class StagedPruner(VisualPruner):
    """A method whose stages follow a published schedule, scaled to the budget and the model.

    keep: share of an image's tokens left by the last stage. The stages before it are scaled along,
        so that the published share is the published schedule; none leaves more than there is.
    average: as everywhere; the schedule is scaled until it is within.
    layer: the first stage; the others are spread over the layers behind it as they were published.
        0: the first as published, too, as a fraction of the depth.
    places: the layers of all stages instead. ratios: shares of an image's tokens that the stages
        leave, whose proportions are kept, instead of the published ones.
    """

    places: tuple[int, ...] | None = None
    ratios: tuple[float, ...] | None = None

    #: stages of a model with `published_depth` layers, and the shares they leave
    published_places: ClassVar[tuple[int, ...]]
    published_ratios: ClassVar[tuple[float, ...]]
    published_depth: ClassVar[int] = 32
    #: the first layer before which a stage can be
    earliest: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._scales: dict[tuple, float] = {}
        for name in ("places", "ratios"):
            if (value := getattr(self, name)) is not None:
                setattr(self, name, tuple(value))  # JSON has lists
        if 0 < self.layer < self.earliest:
            raise ValueError(
                f"layer must be 0 or at least {self.earliest} for {type(self).__name__}, which "
                f"looks at what layers before it compute; got {self.layer}"
            )
        if self.places is not None:
            self._check_places(self.places)
        if len(self.shares) != len(self.places or self.published_places):
            raise ValueError(
                f"{len(self.places or self.published_places)} stages need as many ratios, got "
                f"{len(self.shares)}: {self.shares}"
            )
        falling = all(a >= b for a, b in pairwise(self.shares))
        if not falling or not 0 < min(self.shares) <= max(self.shares) <= 1:
            raise ValueError(f"ratios must fall and lie in (0, 1], got {self.shares}")

    def _check_places(self, places: tuple[int, ...]) -> None:
        whole = all(isinstance(place, int) and not isinstance(place, bool) for place in places)
        rising = whole and all(a < b for a, b in pairwise(places))
        if not places or not rising or places[0] < self.earliest:
            raise ValueError(f"places must be rising layers from {self.earliest} on, got {places}")
        if self.layer:
            raise ValueError(f"give layer or places, not both; got {self.layer} and {places}")

    @property
    def shares(self) -> tuple[float, ...]:
        """What the stages leave, up to a common factor."""
        return self.published_ratios if self.ratios is None else self.ratios

    def stages(self) -> tuple[int, ...]:
        if self.places is not None:
            return self.places
        depth, published = self.model_depth, self.published_places
        first = published[0]
        start = self.layer or max(self.earliest, _round(first * depth / self.published_depth))
        found = [start]
        for place in published[1:]:
            part = (place - first) / (self.published_depth - first)
            found.append(max(found[-1] + 1, _round(start + (depth - start) * part)))
        return tuple(found)

    def left(self, tokens: int, scale: float) -> tuple[int, ...]:
        """Tokens left of `tokens` by the stages, the shares multiplied by `scale`."""
        counts, before = [], tokens
        for share in self.shares:
            before = min(before, geometry.kept_count(min(1.0, share * scale), tokens))
            counts.append(before)
        return tuple(counts)

    def plan(self, tokens: int) -> tuple[int, ...]:
        return self.left(tokens, self.scale(tokens))

    def budget(self, tokens: int) -> int:
        return self.plan(tokens)[-1]

    def scale(self, tokens: int) -> float:
        """What the published shares are multiplied by for an image with `tokens` tokens.

        Raises `ValueError` if not even one token a stage is within `average`.
        """
        if self.average is None:
            return self.keep / self.shares[-1]
        key = (tokens, self.model_depth, *self.options().values())
        if key not in self._scales:
            self._scales[key] = self._within_average(tokens)
        return self._scales[key]

    def _within_average(self, tokens: int) -> float:
        """The largest multiple of the schedule whose average over the layers is within reach."""
        wanted, depth, stages = self.average_of(tokens), self.model_depth, self.stages()

        def average(scale: float) -> float:
            left = zip(stages, self.left(tokens, scale))
            return sum(by_layer(tokens, left, depth)) / depth

        low, high = 1e-9, 1 / self.shares[-1]
        if (least := average(low)) > wanted + 1e-9:
            raise ValueError(
                f"an average of {wanted:g} tokens a layer is out of reach with stages before "
                f"layers {stages} of {depth}: even the smallest schedule makes {least:g}. Prune at "
                "an earlier layer, or ask for more."
            )
        for _ in range(60):
            middle = math.sqrt(low * high)
            within = average(middle) <= wanted + 1e-9
            low, high = (middle, high) if within else (low, middle)
        return low


def _round(value: float) -> int:
    return math.floor(value + 0.5)
