"""Rules that choose by what the vision tower saw, before the language model reads a word."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from .engine import beside, tower
from .engine.graphs import graphs
from .engine.images import ImageTokens
from .engine.picked import Picked, joined
from .engine.pieces import Piece, split
from .engine.pruner import VisualPruner
from .engine.sequence import Chosen
from .engine.vision import VisionRecord


@dataclass(eq=False, kw_only=True)
class TowerRule(VisualPruner):
    """A method that picks among the tokens of an image, or of each of its tiles.

    positions: "contiguous" by default, as for everything that is published as a shorter input of
        the language model. Families whose positions cannot be closed up need "original".
    tiles: where an image is cut into tiles, "each" gives every tile an even share of the budget and
        looks at it alone, "together" looks at all of them at once. Separators between rows of tiles
        stay only where every token made of patches does.
    """

    positions: Literal["original", "contiguous"] = "contiguous"
    tiles: Literal["each", "together"] = "each"

    vision_only = True
    uses_own_vision = True
    #: True: the rule needs nothing but the tower's states, and returns indices alone
    from_record: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of(tiles=("each", "together"))
        if self.merges:
            self.only_ahead("makes new tokens")

    def watch(self) -> None:
        """Register further hooks that record what `pick` reads; the features are recorded."""

    def pick(self, piece: Piece) -> Tensor | Picked:
        """`piece.quota` tokens of each piece: indices `(m, k)`, or a `Picked`.

        Where the count is not exact there is no quota (0), and `Picked.counts` says how many.
        """
        raise NotImplementedError

    def watch_attention(self, block: int | None = None) -> None:
        """Record queries and keys of a block, by default that whose output the projector reads."""
        self._block = self.family.feature_layer() - 1 if block is None else block
        self._attention = tower.watch_projections(self, self._block, "qk")

    def attention(self, piece: Piece, *, heads: str = "mean") -> Tensor:
        """What each token receives of the attention in the watched block, float32 `(m, P)`."""
        return piece.received(self._attention, self._block, heads=heads)

    def captured(self, rule: Callable, tensors: list[Tensor], quota: int) -> Tensor:
        """`rule(tensors, quota)`; on CUDA a repeated call replays a captured graph.

        The rule must depend on nothing but the tensors, the quota and this method's options.
        """
        key = (type(self), repr(self), quota)
        return graphs(key, functools.partial(rule, quota=quota), tensors)

    def attach(self, model: nn.Module) -> None:
        tower.watch_hidden(self, tower.feature_layers(self.family))
        self.watch()
        if self.from_record:
            beside.ahead(self, self._ahead)

    def _ahead(self, record: VisionRecord) -> Tensor | None:
        if tower.layouts_of(self.family, record) is not None:
            return None
        patches = tower.features(record, self.family).shape[1]
        index = self.pick(Piece(record, self.family, self.budget(patches)))
        mask = torch.zeros(len(index), patches, dtype=torch.bool, device=index.device)
        return mask.scatter_(1, index, True)

    def select(self, images: ImageTokens) -> Tensor | Chosen:
        if (ready := beside.chosen_ahead(images)) is not None:
            return ready
        quota = self.budget(images.tokens) if self.exact else None
        parts, whole = split(images, self.family, quota, by_tile=self.tiles == "each")
        picks = [_picked(self.pick(part)) for part in parts]
        return joined(images, parts, picks, whole, self.family, quota)


def _picked(found: Tensor | Picked) -> Picked:
    return found if isinstance(found, Picked) else Picked(found)


def by_attention(weights: Tensor) -> Tensor:
    """Attention on a scale on which the many small weights are told apart as the large ones are.

    Choices compare scores on a grid over their range, which a few large weights would fill.

    >>> by_attention(torch.tensor([1.0, 0.0])).isfinite().all().item()
    True
    """
    return weights.clamp_min(torch.finfo(weights.dtype).tiny).log()
