"""What the figures look at: plain arrays, each of one image under one model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..inspection.attention import PARTS

__all__ = ["Attention", "Centroids", "Description", "Tokens", "Tower"]


class Tokens(NamedTuple):
    """The visual tokens of one image in the vision tower's layers l1 … l2.

    Attributes:
        image: (H, W, 3) uint8, the pixels the model sees.
        tokens: (L, N, D) float32 unit tokens, shallow first; the last layer feeds the projector.
        layers: the indices of the L hidden states (0: the embeddings).
        grid: rows and columns of patches, N = rows · columns.
        image_id: of the data set.
        raw: (L, N, D) float32, the tokens as they are; Algorithm 1 clusters these.
    """

    image: np.ndarray
    tokens: Tensor
    layers: list[int]
    grid: tuple[int, int]
    image_id: int
    raw: Tensor


class Tower(NamedTuple):
    """How the vision tower's blocks mix the patches.

    Attributes:
        attention: (B, T, T) float32, averaged over heads; the blocks before the projector's layer.
        skipped: tokens in front of the patches: 1 for a class token, or 0.
    """

    attention: Tensor
    skipped: int


class Centroids(NamedTuple):
    """One clustering of the visual tokens, seen in every layer of both networks.

    Attributes:
        image: (H, W, 3) uint8.
        labels: (N,) int64, k-means at the layer that feeds the projector.
        grams: (S, M, M) float32, inner products of the unit centroids in each layer.
        stages: S names, "vision 0" … "vision l2", "language 0" … .
        grid, image_id: see `Tokens`.
    """

    image: np.ndarray
    labels: Tensor
    grams: Tensor
    stages: list[str]
    grid: tuple[int, int]
    image_id: int


class Attention(NamedTuple):
    """Where the output tokens look in each language layer, averaged over heads and tokens.

    Attributes:
        image: (H, W, 3) uint8.
        shares: (L, 4) float32, attention to `PARTS`; each row sums to one.
        counts: tokens in each of `PARTS`.
        maps: (L, N) float32, attention to each visual token.
        text: what the model said.
        grid, image_id: see `Tokens`.
    """

    image: np.ndarray
    shares: np.ndarray
    counts: list[int]
    maps: np.ndarray
    text: str
    grid: tuple[int, int]
    image_id: int

    @property
    def per_token(self) -> np.ndarray:
        """(L, 4) attention an average token of each part gets."""
        return self.shares / np.maximum(self.counts, 1)

    def image_to_system(self, first_layer: int = 0) -> float:
        """Attention of an image token over that of a system token, layers `first_layer` on."""
        per_token = self.per_token[first_layer:].mean(0)
        return float(per_token[PARTS.index("image")] / per_token[PARTS.index("system")])


class Description(NamedTuple):
    """What a model said of an image, and the (N,) bool mask of the visual tokens it kept."""

    text: str
    kept: np.ndarray
