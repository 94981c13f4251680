"""FastV: keep the visual tokens that the last token attends to most (arXiv 2403.06764)."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..selection import top_k
from .base import ImageTokens, VisualPruner
from .random_prune import attach_pixel_keys, random_mask


@dataclass(eq=False, kw_only=True)
class FastV(VisualPruner, name="fastv"):
    """Ranks visual tokens by the attention of layer K-1, averaged over heads, last query row.

    Algorithms 2 (`mode="inplace"`) and 3 (`mode="mask"`) of the paper's appendix. At `layer=0`
    there is no earlier attention and the tokens are drawn at random with `seed`.

    Only the one row of attention is computed, from the queries and keys the layer made anyway:
    the model's attention implementation stays as it is.
    """

    layer: int = 2
    seed: int = 0

    scorer = ("score", "select")

    def attach(self, model: PreTrainedModel) -> None:
        self.forget("_row")
        if self.layer == 0:
            attach_pixel_keys(self, model)
            return
        attention = model.model.language_model.layers[self.layer - 1].self_attn
        if not hasattr(attention, "q_proj") or hasattr(attention, "q_norm"):
            raise TypeError(f"FastV cannot read queries and keys of {type(attention).__name__}")
        made: dict[str, Tensor] = {}

        def capture(name: str):
            def hook(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
                if self._prefill is not None and self._prefill.groups:
                    made[name] = output

            return hook

        def attended(module: nn.Module, args: tuple, kwargs: dict, output: tuple) -> None:
            if self._prefill is not None and self._prefill.groups:
                self._row = self.score(
                    module,
                    made.pop("q"),
                    made.pop("k"),
                    kwargs["position_embeddings"],
                    kwargs.get("past_key_values"),
                    self._prefill.valid,
                    self._prefill.past_valid,
                )

        self.hook(attention.q_proj, capture("q"), before=False)
        self.hook(attention.k_proj, capture("k"), before=False)
        self.hook(attention, attended, before=False)

    def score(self, *state: object) -> Tensor:
        """The one row of attention, see `last_row_attention`."""
        return last_row_attention(*state)

    def select(self, images: ImageTokens) -> Tensor:
        if self.layer == 0:
            return random_mask(self, images, self.seed)
        scores = images.take(self._row)
        keep = top_k(scores, self.budget(images.tokens), check=False)
        return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, keep, True)


def last_row_attention(
    attention: nn.Module,
    queries: Tensor,
    keys: Tensor,
    rotary: tuple[Tensor, Tensor],
    cache: object | None,
    valid: Tensor | None,
    past_valid: Tensor | None = None,
) -> Tensor:
    """Attention of the last real token over the new positions, averaged over heads.

    queries, keys: outputs of the projections, `(batch, positions, heads * head_dim)`, before the
    rotary embedding. Returns float32 `(batch, positions)`; each row sums to at most 1 (the rest
    goes to earlier, cached positions).
    """
    batch, length, _ = queries.shape
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
    cos, sin = (t.expand(batch, -1, -1) for t in rotary)
    last = torch.full((batch,), length - 1, device=queries.device)
    if valid is not None:
        place = torch.arange(length, device=valid.device)
        last = (place * valid).argmax(1).to(queries.device)
    pick = last[:, None, None]
    query = queries.gather(1, pick.expand(-1, -1, queries.shape[-1]))
    query = query.view(batch, 1, -1, attention.head_dim).transpose(1, 2)
    cos_last, sin_last = (t.gather(1, pick.expand(-1, -1, t.shape[-1])) for t in (cos, sin))
    query, _ = rotate(query, query, cos_last, sin_last)
    if cache is not None:  # the layer has just stored its rotated keys, behind earlier ones
        keys = cache.layers[attention.layer_idx].keys
    else:
        keys = keys.view(batch, length, -1, attention.head_dim).transpose(1, 2)
        keys, _ = rotate(keys, keys, cos, sin)
    query = query.view(batch, keys.shape[1], -1, attention.head_dim)  # grouped queries
    logits = (query @ keys.transpose(2, 3)).float() * attention.scaling
    held = keys.shape[2] - length
    place = torch.arange(-held, length, device=logits.device)
    visible = place <= last[:, None]  # causal: a right-padded row ends earlier
    if valid is not None:
        visible[:, held:] &= valid.to(visible.device)
    if held and past_valid is not None:
        visible[:, :held] &= past_valid[:, -held:].to(visible.device)
    weights = logits.masked_fill(~visible[:, None, None], float("-inf")).softmax(-1)
    return weights.flatten(1, 2).mean(1)[:, held:]
