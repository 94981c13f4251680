"""Exact architectures with random weights, to measure cost without a download."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from .embedded import IMAGE_TOKEN, build_processor, embedded_tokenizer, llava_config
from .qwen_shapes import CONFIGS, qwen_config, qwen_processor

# llava-hf/llava-1.5-7b-hf: CLIP ViT-L/14 at 336 px (576 visual tokens) and Vicuna-7B.
SHAPES = {
    "llava-1.5-7b": {
        "vision": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
            "projection_dim": 768,
        },
        "text": {
            "vocab_size": 32064,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
        },
    },
    # the same layout with next to no weights: checks in seconds what runs on the large one
    "tiny": {
        "vision": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 5,
            "num_attention_heads": 2,
            "image_size": 112,
            "patch_size": 14,
            "projection_dim": 16,
        },
        "text": {
            "vocab_size": 2048,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
        },
    },
}


def build_shape(
    name: str, device: str | torch.device, dtype: torch.dtype, attn_implementation: str
) -> PreTrainedModel:
    """Random weights of an exact shape, made on the target device in the target precision."""
    config = shape_config(name, embedded_tokenizer())
    # only the generator that draws the weights: asking all would start every GPU of the machine
    place = torch.device(device)
    with torch.random.fork_rng([place] if place.type == "cuda" else []), place:
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(
            config, dtype=dtype, attn_implementation=attn_implementation
        )
    return model.eval()


def shape_names() -> list[str]:
    """The shapes there are, without "shape:"."""
    return [*SHAPES, *CONFIGS]


def shape_processor(name: str) -> Any:
    """The processor of a shape.

    The words come from the embedded tokenizer (its ids lie inside the larger vocabulary), so the
    placeholder's id is that tokenizer's and not the original's; nothing else differs.
    """
    if (shape := name.removeprefix("shape:")) in CONFIGS:
        return qwen_processor(shape, embedded_tokenizer())
    vision = shape_config(name, embedded_tokenizer()).vision_config
    return build_processor(
        embedded_tokenizer(), image_size=vision.image_size, patch_size=vision.patch_size
    )


def shape_config(name: str, tokenizer: PreTrainedTokenizerFast) -> Any:
    """The configuration of a shape, with the ids of a tokenizer."""
    if (own := name.removeprefix("shape:")) in CONFIGS:
        return qwen_config(own, tokenizer)
    shape = SHAPES[own]
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return llava_config(
        CLIPVisionConfig(**shape["vision"]),
        LlamaConfig(**shape["text"], **ids),
        tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        tokenizer.pad_token_id,
    )
