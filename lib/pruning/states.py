"""Hidden states of several layers at the visual tokens, for the methods that rank by content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .engine import beside, tower
from .engine.images import ImageTokens
from .engine.pruner import VisualPruner
from .engine.vision import VisionRecord


@dataclass(eq=False, kw_only=True)
class StatePruner(VisualPruner):
    """A method that looks at the visual tokens of the layers l1..l2.

    source, layers: whose hidden states are looked at, `layers = (l1, l2)` inclusive. "vision": the
        hidden states of the vision tower (index 0: its embeddings; negative counts from the end).
        "language": the visual tokens as they enter the language layers l1..l2 <= `layer`.
    """

    source: Literal["vision", "language"] = "vision"
    layers: tuple[int, int] | None = None

    #: layers used when none are named, counted back from the last one there is
    depth = 1
    #: True: the tower's states are all it takes, so that it can choose before the tower is done
    tower_alone = True
    #: True: the choice takes about as long as two language layers (`beside.ahead`)
    long = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of(source=("vision", "language"))
        if self.layers is not None:
            self.layers = tuple(self.layers)  # JSON has lists

    @property
    def vision_only(self) -> bool:
        return self.source == "vision"

    def rank(self, states: list[Tensor]) -> Tensor:
        """The tokens to keep, bool `(n, N)`, from the states of the layers l1..l2."""
        raise NotImplementedError

    def select(self, images: ImageTokens) -> Tensor:
        if self.source == "language":
            return self.rank(self.layer_states(images))
        if (ready := beside.chosen_ahead(images)) is not None:
            return ready
        apart = tower.separators(images, self.family)
        if apart is None:
            return self.rank(self.layer_states(images))
        return self._among_patches(images, apart)

    def _among_patches(self, images: ImageTokens, apart: Tensor) -> Tensor:
        """Separators are made of no patch: they stay only where every patch does."""
        budget = self.budget(images.tokens)
        mask = torch.zeros_like(apart)
        states = self.layer_states(images)
        for i, lonely in enumerate(apart):  # images of one length can have different rasters
            place = (~lonely).nonzero().squeeze(1)
            if budget >= len(place):
                fill = lonely.nonzero().squeeze(1)[: budget - len(place)]
                mask[i, torch.cat([place, fill])] = True
                continue
            own = [layer[i : i + 1].index_select(1, place) for layer in states]
            mask[i, place] = self.rank_of(own, budget)[0]
        return mask

    def rank_of(self, states: list[Tensor], budget: int) -> Tensor:
        """`rank` with a count of its own, for images whose tokens are not all ranked."""
        raise NotImplementedError

    def attach(self, model: nn.Module) -> None:
        if self.source == "vision":
            self._attach_vision()
        else:
            self._attach_language()

    def _attach_vision(self) -> None:
        family = self.family
        last = family.feature_layer()
        default = (max(0, last - self.depth + 1), last)
        self._wanted = self._range(len(family.blocks()) + 1, default)
        tower.watch_hidden(self, self._wanted)
        if self.tower_alone and family.model_type == "llava":
            beside.ahead(self, self._rank_record, long=self.long, last=self._wanted[-1])

    def _rank_record(self, record: VisionRecord) -> Tensor:
        rows = [tower.patch_rows(self.family, record.hidden[layer]) for layer in self._wanted]
        return self.rank(rows)

    def _attach_language(self) -> None:
        first = max(0, self.layer - self.depth + 1)
        self._wanted = self._range(self.layer + 1, (first, self.layer))
        for index in self._wanted:
            self.hook(self.family.layers[index], self._collect(index), before=True)

    def _collect(self, index: int) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            pass_ = self._current.pass_
            if pass_ is not None and pass_.groups:
                entering = args[0] if args else kwargs["hidden_states"]
                pass_.attention[-1 - index] = entering

        return hook

    def _range(self, depth: int, default: tuple[int, int]) -> range:
        first, last = self.layers if self.layers is not None else default
        first, last = (i if i >= 0 else depth + i for i in (first, last))
        if not 0 <= first <= last < depth:
            raise ValueError(
                f"layers {self.layers} must name l1 <= l2 among {depth} hidden states of the "
                f"{self.source} model that exist before pruning"
            )
        return range(first, last + 1)

    def layer_states(self, images: ImageTokens) -> list[Tensor]:
        """The states of the layers l1..l2, shallow first: each `(n, N, D_l)`."""
        if self.source == "vision":
            states = [tower.hidden_states(images, self.family, layer) for layer in self._wanted]
        else:
            kept = images.prefill.attention
            states = [images.take(kept[-1 - layer]) for layer in self._wanted]
        return [layer.to(images.columns.device) for layer in states]
