"""FastV: keep the visual tokens that the last token attends to most (arXiv 2403.06764)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from .engine.attention import LayerAttention, Watch
from .engine.choice import best
from .engine.images import ImageTokens
from .engine.pruner import VisualPruner
from .random_prune import random_mask, watch_pixels


@dataclass(eq=False, kw_only=True)
class FastV(VisualPruner, name="fastv"):
    """Ranks visual tokens by the attention of layer K-1, averaged over heads, last query row.

    Algorithms 2 (`mode="inplace"`) and 3 (`mode="mask"`) of the paper's appendix. At `layer=0`
    there is no earlier attention and the tokens are drawn at random with `seed`. The last row is
    that of the prompt's last token, also where drafts of assisted decoding stand behind it.

    Only the one row of attention is computed, from the queries and keys the layer made anyway:
    the model's attention implementation stays as it is.
    """

    layer: int = 2
    seed: int = 0

    scorer = ("score", "select")

    def attach(self, model: nn.Module) -> None:
        if self.layer == 0:
            watch_pixels(self)
        else:
            self._watch = Watch(self, self.layer - 1)

    def score(self, images: ImageTokens) -> Tensor:
        """Attention of the last token to the visual tokens, float32 `(n, N)`."""
        pass_ = images.prefill
        return images.take(last_row(self._watch.taken(pass_), pass_))

    def select(self, images: ImageTokens) -> Tensor:
        if self.layer == 0:
            return random_mask(self, images, self.seed)
        return best(self.score(images), self.budget(images.tokens))


def last_row(attention: LayerAttention, pass_: object) -> Tensor:
    """Attention of each row's last prompt token over the new positions, float32 `(batch, L)`.

    Averaged over heads; a row sums to at most 1, the rest goes to earlier, cached positions.
    """
    return attention.rows(attention.last(pass_))[:, 0]
