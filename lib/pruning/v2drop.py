"""V2Drop: keep the tokens that the last layer changed most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .engine.choice import best
from .engine.images import ImageTokens
from .staged import StagedPruner


@dataclass(eq=False, kw_only=True)
class V2Drop(StagedPruner, name="v2drop"):
    """Before layers 3, 17 and 22 of 32: a half, a quarter, one token.

    Source: CVPR 2026; xuyang-liu16/V2Drop at 219e03e, `V2Drop.py`. Tokens are ranked by the
    Euclidean norm of what the layer before the stage added to them, the largest stay, in raster
    order and at their places. No attention is read.

    Deviations: rows may be padded, images may differ in number and length (the release takes
    positions 35 to 610 of the first row). The release's last stage keeps one token of 576; here it
    is `keep`, so that any budget can be asked for, and the other stages scale along.
    """

    keep: float = 1 / 576

    published_places = (3, 17, 22)
    published_ratios = (0.5, 0.25, 1 / 576)
    scorer = ("score", "select")

    def attach(self, model: nn.Module) -> None:
        for layer in self.stages():
            self.hook(self.family.layers[layer - 1], self._remember(layer), before=False)

    def _remember(self, layer: int) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            pass_ = self._current.pass_
            if pass_ is not None and pass_.groups:
                given = args[0] if args else kwargs["hidden_states"]
                pass_.extra[f"before {layer}"] = given

        return hook

    def score(self, images: ImageTokens) -> Tensor:
        """How far the last layer moved each token, float32 `(n, N)`."""
        before = images.prefill.extra[f"before {self.stages()[images.stage]}"]
        return (images.hidden.float() - images.take(before).float()).norm(dim=-1)

    def select(self, images: ImageTokens) -> Tensor:
        return best(self.score(images), self.plan(images.total)[images.stage])
