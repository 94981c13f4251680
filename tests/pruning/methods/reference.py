"""The vision tower's states, worked out plainly, and small models with other towers."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
)

from lib.pruning import create
from tests.tiny import IMAGE, PATCH, SIDE, TOKENS, VOCABULARY


class Tower:
    """What the tower computes for pixels `(rows, 3, height, width)`, in float64.

    hidden: `(rows, tokens, D)` of every layer, class token included. last: the feature layer.
    """

    def __init__(self, model, pixels: Tensor) -> None:
        self.tower = copy.deepcopy(model.model.vision_tower).double()
        self.projector = copy.deepcopy(model.model.multi_modal_projector).double()
        out = self.tower(pixels.double(), output_hidden_states=True)
        self.hidden = out.hidden_states
        self.blocks = getattr(self.tower, "vision_model", self.tower).encoder.layers
        self.last = len(self.hidden) + model.config.vision_feature_layer
        self.heads = self.blocks[0].self_attn.num_heads

    @property
    def features(self) -> Tensor:
        """What the projector reads, `(rows, patches, D)`."""
        return self.hidden[self.last][:, 1:]

    def made(self, block: int, name: str) -> Tensor:
        """Queries, keys or values of a block, `(rows, tokens, D)`."""
        layer = self.blocks[block]
        return getattr(layer.self_attn, f"{name}_proj")(layer.layer_norm1(self.hidden[block]))

    def attention(self, block: int) -> Tensor:
        """Every head's attention `(rows, heads, queries, keys)`, one query and head at a time."""
        q, k = (self.made(block, n).unflatten(-1, (self.heads, -1)) for n in "qk")
        rows, length, heads, width = q.shape
        out = torch.zeros(rows, heads, length, length, dtype=torch.float64)
        for row in range(rows):
            for head in range(heads):
                for query in range(length):
                    logits = k[row, :, head] @ q[row, query, head] / width**0.5
                    out[row, head, query] = torch.softmax(logits, 0)
        return out

    def class_attention(self, block: int | None = None) -> Tensor:
        """What the class token pays the patches, mean over heads, `(rows, patches)`."""
        block = self.last - 1 if block is None else block
        return self.attention(block)[:, :, 0, 1:].mean(1)


def kept_by(name: str, model, inputs: dict, **options) -> list[list[int]]:
    """What a method keeps of every image."""
    with torch.no_grad(), create(name, **options)(model) as pruner:
        model(**inputs)
        return [kept.tolist() for kept in pruner.kept]


def entering(model, inputs: dict, pruner) -> Tensor:
    """What the first language layer is given under a pruner, `(batch, length, D)`."""
    seen = {}
    with torch.no_grad(), pruner(model):
        first = model.model.language_model.layers[0]
        handle = first.register_forward_pre_hook(
            lambda module, args, kwargs: seen.update(
                x=args[0] if args else kwargs["hidden_states"]
            ),
            with_kwargs=True,
        )
        try:
            model(**inputs)
        finally:
            handle.remove()
    return seen["x"]


def top(scores, k: int) -> list[int]:
    """Indices of the k largest, ties to the lower index, in order of index."""
    ranked = sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))
    return sorted(ranked[:k])


def cosines(tokens: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize(tokens.double(), dim=-1)
    return unit @ unit.mT


def tiny_siglip() -> LlavaForConditionalGeneration:
    """A LLaVA whose tower has no class token."""
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=5, num_attention_heads=4,
            image_size=PATCH * SIDE, patch_size=PATCH,
        ),
        text_config=LlamaConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=5, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=VOCABULARY, pad_token_id=0,
        ),
        image_token_index=IMAGE, vision_feature_layer=-2, vision_feature_select_strategy="full",
        image_seq_length=TOKENS,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
    return model
