"""Attention rollout: keep the patches whose embeddings reach the class token most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..rollout import attention_step
from ..selection import top_k
from .engine import tower
from .engine.pieces import Piece
from .tower_rule import TowerRule, by_attention


@dataclass(eq=False, kw_only=True)
class Rollout(TowerRule, name="rollout"):
    """Ranks patches by the class token's row of ∏ (½ A_l + ½ I) over the tower's blocks.

    Abnar & Zuidema 2020 (arXiv 2005.00928): A_l is block l's attention, averaged over heads; the
    residual path counts half, and rows sum to one. Blocks 0 up to the one whose output the
    projector reads. Raster order.

    The paper cites VLTP (arXiv 2409.08464) for rollout, but its score is a relevance head trained
    with a segmentation loss, which cannot be had without training and is not imitated here
    (HanningChen/VLTP @07fe490). This rule never reads the text.

    tiles: "together" by default: scores of all tiles are compared with each other. Towers without a
    class token: the mean over all rows of the product.

    Raises `TypeError` for towers that mask attention or rotate queries and keys.
    """

    tiles: Literal["each", "together"] = "together"

    scorer = ("select", "roll")

    def watch(self) -> None:
        for block in range(self.family.feature_layer()):
            if self.family.attention(block).context:
                raise TypeError(
                    f"Rollout multiplies the attention of the tower's blocks, which in "
                    f"{self.family.title} takes more than queries and keys: masks, or places"
                )
            attention = tower.watch_projections(self, block, "qk")
            module = self.family.blocks()[block]
            self.hook(module, self._after(block, attention), before=False)

    def _after(self, block: int, attention: Any) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            record = self._current.record
            if record is not None:
                queries, keys = (record.projections.pop((block, name)) for name in "qk")
                record.extra["rollout"] = self.roll(
                    record.extra.get("rollout"), queries, keys, attention
                )

        return hook

    def roll(self, before: Tensor | None, queries: Tensor, keys: Tensor, attention: Any) -> Tensor:
        """The product with one block more, float32 `(rows, tokens, tokens)`."""
        weights = torch.stack(
            [tower.attention_weights(q, k, attention).mean(1)[0]
             for q, k in zip(queries.split(1), keys.split(1))]
        )  # fmt: skip
        return attention_step(before, weights)

    def pick(self, piece: Piece) -> Tensor:
        product = piece.record.extra["rollout"]
        rows = product[:, 0] if self.family.class_tokens else product.mean(1)
        scores = piece.of_patches(tower.patch_rows(self.family, rows))
        return top_k(by_attention(scores), piece.quota, check=False)
