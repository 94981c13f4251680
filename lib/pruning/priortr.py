"""PriorTR: attention of the question against that of a token that has not seen it (2606.24156)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .engine.attention import Watch
from .engine.choice import best
from .engine.images import ImageTokens
from .engine.pruner import VisualPruner


@dataclass(eq=False, kw_only=True)
class PriorTR(VisualPruner, name="priortr"):
    """Ranks by P log(P / Q): attention of the question, and of the first token behind the image.

    Source: CodeChildCZJ/PriorTR at e442a4c, `image/LLaVA/llava/vtr`. P and Q are attention of layer
    K-1 to the visual tokens, averaged over heads, each scaled to sum one over the image, 1e-10
    added in the logarithm. Q is that of the first text token behind the image, which under the
    causal mask has seen nothing of the question: what the model looks at anyway. Largest scores
    stay, in raster order, at their places. K = 3 as released.

    query: whose attention P is: "question", the mean over all text behind the image (as released
    for LLaVA-1.5), or "last", the last token's (for LLaVA-1.6). A prompt whose only text behind the
    image is one token has P = Q and keeps the first tokens.
    """

    layer: int = 3
    query: Literal["question", "last"] = "question"

    first_layer = 1
    scorer = ("score", "select")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of(query=("question", "last"))

    def attach(self, model: nn.Module) -> None:
        self._watch = Watch(self, self.layer - 1)

    def score(self, images: ImageTokens) -> Tensor:
        """Information of each token beyond the prior, float32 `(n, N)`."""
        pass_, attention = images.prefill, self._watch.taken(images.prefill)
        device = attention.device
        behind = pass_.at_present(images.text_behind, images.rows).to(device)
        places, real = (t.to(device) for t in pass_.text())
        rows, columns = images.rows.to(device), images.columns.to(device)
        seen = attention.rows(places)[rows]  # (n, q, positions)
        seen = seen.gather(2, columns[:, None].expand(-1, seen.shape[1], -1))
        places, voice = places[rows], behind.gather(1, places[rows]) & real[rows]
        order = torch.where(voice, places, places.new_full((), behind.shape[1]))
        prior = seen[torch.arange(len(seen), device=device), order.argmin(1)]
        if self.query == "last":
            order = torch.where(voice, places, -1)
            asked = seen[torch.arange(len(seen), device=device), order.argmax(1)]
        else:
            asked = (seen * voice[..., None]).sum(1) / voice.sum(1, keepdim=True).clamp_min(1)
        return information(asked, prior)

    def select(self, images: ImageTokens) -> Tensor:
        return best(self.score(images), self.budget(images.tokens))


def information(asked: Tensor, prior: Tensor, eps: float = 1e-10) -> Tensor:
    """P log(P / Q) of attention `(..., N)`, each scaled to sum one.

    >>> print(f"{information(torch.tensor([0.2, 0.2]), torch.tensor([0.1, 0.3])).sum():.3f}")
    0.144
    """
    p, q = (a.float() / (a.float().sum(-1, keepdim=True) + eps) for a in (asked, prior))
    return p * ((p + eps) / (q + eps)).log()
