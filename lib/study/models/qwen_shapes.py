"""Exact architectures of Qwen2.5-VL-7B and Qwen3-VL-8B with random weights.

Numbers from the published config.json of Qwen/Qwen2.5-VL-7B-Instruct (8,292,166,656 parameters) and
Qwen/Qwen3-VL-8B-Instruct (8,767,123,696). Words and placeholders are the embedded tokenizer's,
whose ids lie inside the larger vocabularies; nothing else differs.
"""

from __future__ import annotations

import copy
from typing import Any

from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen3VLConfig,
    Qwen3VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from .stills import stills

MARKS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_QWEN25 = {
    "vision_config": {
        "depth": 32,
        "hidden_act": "silu",
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_channels": 3,
        "out_hidden_size": 3584,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
    },
    "text_config": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-6,
        "use_sliding_window": False,
        "sliding_window": 32768,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [16, 24, 24],
        },
    },
    "tie_word_embeddings": False,
}
_QWEN3 = {
    "vision_config": {
        "depth": 27,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_heads": 16,
        "in_channels": 3,
        "out_hidden_size": 4096,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [8, 16, 24],
    },
    "text_config": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
        },
    },
    "tie_word_embeddings": False,
}


def _tiny(config: dict[str, Any], vision: dict[str, Any], sections: list[int]) -> dict[str, Any]:
    """The same layout with next to no weights: checks in seconds what runs on the large one."""
    small = copy.deepcopy(config)
    small["vision_config"] |= {
        "depth": 4, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
        "out_hidden_size": 32, **vision,
    }  # fmt: skip
    small["text_config"] |= {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "head_dim": 16,
        "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 2048,
    }  # fmt: skip
    small["text_config"]["rope_parameters"]["mrope_section"] = sections
    if "sliding_window" in small["text_config"]:
        del small["text_config"]["head_dim"]
    return small


CONFIGS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "qwen2.5-vl-7b": (Qwen2_5_VLConfig, Qwen2_5_VLProcessor, _QWEN25),
    "qwen3-vl-8b": (Qwen3VLConfig, Qwen3VLProcessor, _QWEN3),
    "tiny-qwen2.5-vl": (
        Qwen2_5_VLConfig,
        Qwen2_5_VLProcessor,
        _tiny(_QWEN25, {"fullatt_block_indexes": [1, 3]}, [2, 3, 3]),
    ),
    "tiny-qwen3-vl": (
        Qwen3VLConfig,
        Qwen3VLProcessor,
        _tiny(_QWEN3, {"deepstack_visual_indexes": [0, 1, 2]}, [4, 2, 2]),
    ),
}


def qwen_config(shape: str, tokenizer: PreTrainedTokenizerFast) -> Any:
    """The configuration of a shape, with the placeholders of a tokenizer; marks are added to it."""
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKS.values())})
    kind, _, values = CONFIGS[shape]
    ids = {name: tokenizer.convert_tokens_to_ids(mark) for name, mark in MARKS.items()}
    values = copy.deepcopy(values)
    values["text_config"] |= {
        name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")
    }
    return kind(**values, **ids)


def qwen_processor(shape: str, tokenizer: PreTrainedTokenizerFast) -> Any:
    """The processor of a shape, for images."""
    config, (_, kind, _) = qwen_config(shape, tokenizer), CONFIGS[shape]
    vision = config.vision_config
    images = Qwen2VLImageProcessorPil(
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
    )
    return (stills(config) or kind)(images, tokenizer, None, chat_template=CHAT_TEMPLATE)
