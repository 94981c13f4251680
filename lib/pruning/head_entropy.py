"""EntropyPrune, the namesake: entropy over the heads of each token's query (arXiv 2602.17196)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .engine.attention import Watch
from .engine.choice import best
from .engine.images import ImageTokens
from .engine.pruner import VisualPruner


@dataclass(eq=False, kw_only=True)
class HeadEntropy(VisualPruner, name="head-entropy"):
    """Keeps the tokens whose query, seen as a matrix of heads, has the most entropy.

    Source: YahongWang1/EntropyPrune at 9fc1cbb, `modeling_llama_self.py`. It shares its name with
    this project and little else: the entropy is of one token, and no token is compared with
    another. The queries of layer K-1 (K = 2 for LLaVA, 1 for Qwen2.5-VL) as a matrix of heads,
    centred over heads, have the dual Gram matrix A = Q Qᵀ / heads; the score is -Σ λ log λ of its
    eigenvalues over log heads, in float64, the largest stay at their places.

    normalised: scale A to trace one first, as a matrix entropy is defined. The release does not:
    its score mixes the energy of a query with the shape of its spectrum, and scaling all queries
    can turn the ranking round. Off by default, as published.

    Deviations: batches, padding and other head widths than 128. The rotary embedding turns all
    heads of a token alike and cancels in A, so it is left out (but where it scales, as YaRN's).
    """

    layer: int = 2
    normalised: bool = False

    first_layer = 1
    captures = False  # eigenvalues are looked at by the host
    scorer = ("score", "select")

    def attach(self, model: nn.Module) -> None:
        self._watch = Watch(self, self.layer - 1)

    def score(self, images: ImageTokens) -> Tensor:
        """Entropy of each token's heads, float64 `(n, N)`."""
        queries = self._watch.taken(images.prefill).queries
        scale = getattr(self.family.language.rotary_emb, "attention_scaling", 1.0)
        return head_entropy(images.take(queries.transpose(1, 2)) * scale, self.normalised)

    def select(self, images: ImageTokens) -> Tensor:
        return best(self.score(images), self.budget(images.tokens))


def head_entropy(queries: Tensor, normalised: bool = False) -> Tensor:
    """Entropy of matrices of heads `(..., heads, width)`, over log heads; float64 `(...)`.

    >>> turned = torch.eye(4) - 0.25  # four heads around their mean: three equal directions
    >>> print(f"{head_entropy(turned, normalised=True):.3f}")  # log 3 / log 4
    0.792
    """
    heads = queries.shape[-2]
    centred = queries.double() - queries.double().mean(-2, keepdim=True)
    values = torch.linalg.eigvalsh(centred @ centred.mT / heads).clamp_min(0)
    if normalised:
        values = values / values.sum(-1, keepdim=True).clamp_min(1e-300)
    values = values.clamp_min(1e-10)
    return -(values * values.log()).sum(-1) / math.log(heads)
