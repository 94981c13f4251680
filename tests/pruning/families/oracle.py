"""What a pruned model of any family must compute, by a plain loop over its own layers, by mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.pruning.families.tiny import IMAGE, VIDEO


def logits(model: Any, inputs: dict[str, Any], kept: list[Tensor], layer: int) -> Tensor:
    """Logits `(batch, length, vocabulary)`; from `layer` on, dropped tokens are hidden as keys.

    kept: bool `(N,)` of each image, tile or frame, in reading order.
    """
    inner = model.model
    language = getattr(inner, "text_model", None) or inner.language_model
    ids, valid = inputs["input_ids"], inputs["attention_mask"].bool()
    visual = (ids == IMAGE) | (ids == VIDEO)
    stay = torch.ones_like(visual)
    stay[visual] = torch.cat(kept)
    states, later = _embedded(inner, language, inputs)
    rotary = language.rotary_emb(states, _positions(inner, inputs, valid))
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    eye = torch.eye(ids.shape[1], dtype=torch.bool)
    for index, block in enumerate(language.layers):
        keys = valid & stay if index >= layer else valid
        mask = (causal & keys[:, None]) | eye  # a hidden token may see itself: nobody reads it
        states = block(states, attention_mask=mask[:, None], position_embeddings=rotary)
        if index < len(later):
            states = states.clone()
            states[visual] += later[index]
    return model.lm_head(language.norm(states))


def survivors(inputs: dict[str, Any], kept: list[Tensor]) -> Tensor:
    """Bool `(batch, length)`: the real positions that are left."""
    ids = inputs["input_ids"]
    stay = inputs["attention_mask"].bool()
    visual = (ids == IMAGE) | (ids == VIDEO)
    stay[visual] = torch.cat(kept)
    return stay


def _embedded(inner: Any, language: Any, inputs: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
    """Embeddings with the features in their places, and what DeepStack adds behind each layer."""
    ids = inputs["input_ids"]
    states, later = language.embed_tokens(ids), {}
    visual = (ids == IMAGE) | (ids == VIDEO)
    for marker, kind in ((IMAGE, "image"), (VIDEO, "video")):
        features = _features(inner, kind, inputs)
        if features is None:
            continue
        states[ids == marker] = torch.cat([f.flatten(0, -2) for f in features.pooler_output])
        for index, stacked in enumerate(getattr(features, "deepstack_features", None) or []):
            own = later.setdefault(index, torch.zeros(int(visual.sum()), states.shape[-1]))
            whole = stacked if isinstance(stacked, Tensor) else torch.cat(list(stacked))
            own[(ids == marker)[visual]] = whole
    return states, [later[index] for index in sorted(later)]


def _features(inner: Any, kind: str, inputs: dict[str, Any]) -> Any:
    pixels = "pixel_values" if kind == "image" else "pixel_values_videos"
    if pixels not in inputs:
        return None
    names = {"image": ("image_sizes", "image_grid_thw"), "video": ("video_grid_thw",)}[kind]
    more = {name: inputs[name] for name in names if name in inputs}
    features = getattr(inner, f"get_{kind}_features")(inputs[pixels], **more, return_dict=True)
    pooled = features.pooler_output
    if kind == "video" and isinstance(pooled, Tensor) and pooled.shape[1] % 9 == 0:
        # up to 5.17 the model itself puts the newline behind LLaVA-OneVision's videos
        newline = inner.image_newline.expand(len(pooled), 1, -1)
        features.pooler_output = torch.cat([pooled, newline], 1)
    return features


def _positions(inner: Any, inputs: dict[str, Any], valid: Tensor) -> Tensor:
    """Position ids as the model makes them: `(batch, length)`, or three rows of them."""
    if not hasattr(inner, "get_rope_index"):
        return (valid.long().cumsum(1) - 1).clamp(min=0)
    names = ("mm_token_type_ids", "image_grid_thw", "video_grid_thw")
    more = {name: inputs.get(name) for name in names}
    return inner.get_rope_index(
        inputs["input_ids"], attention_mask=inputs["attention_mask"], **more
    )[0]
