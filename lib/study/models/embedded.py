"""The design of the embedded model: LLaVA-1.5 in small, its tokenizer and its processor."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from ...geometry import patches
from .. import paths
from .folders import check_folder
from .prompts import CHAT_TEMPLATE, PROMPT

SPECIAL_TOKENS = {
    "pad_token": "<pad>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
}
IMAGE_TOKEN = "<image>"


def train_tokenizer(captions: Iterable[str], *, vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer learnt from captions, with LLaVA's special tokens.

    Byte-level: any text has an encoding. Every sequence starts with ``<s>``, as LLaMA's do.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = [*SPECIAL_TOKENS.values(), IMAGE_TOKEN]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    # The prompt is repeated so that its words become tokens too; captions follow a space.
    prompt = [f"USER: \n{PROMPT} ASSISTANT:"] * 100
    core.train_from_iterator([*prompt, *(" " + text for text in captions)], trainer)
    start = SPECIAL_TOKENS["bos_token"]
    core.post_processor = processors.TemplateProcessing(
        single=f"{start} $A",
        pair=f"{start} $A {start} $B",
        special_tokens=[(start, core.token_to_id(start))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        **SPECIAL_TOKENS,
        padding_side="left",
        model_max_length=1024,
        additional_special_tokens=[IMAGE_TOKEN],
        clean_up_tokenization_spaces=False,
    )


def build_processor(
    tokenizer: PreTrainedTokenizerFast, *, image_size: int = 224, patch_size: int = 14
) -> LlavaProcessor:
    """LLaVA's processor over a tokenizer that knows ``<image>``; CLIP's PIL image processor."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    )
    return llava_processor(images, tokenizer, patch_size=patch_size)


def llava_processor(
    images: CLIPImageProcessorPil,
    tokenizer: PreTrainedTokenizerFast,
    *,
    patch_size: int,
    chat_template: str = CHAT_TEMPLATE,
) -> LlavaProcessor:
    """LLaVA's processor over its parts, for a tower with a class token that is left out."""
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        chat_template=chat_template,
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,
    )


def embedded_config(
    tokenizer: PreTrainedTokenizerFast, *, vision: dict | None = None, text: dict | None = None
) -> LlavaConfig:
    """The embedded architecture: LLaVA-1.5 in small, 256 visual tokens, 8 language layers.

    Parameters
    ----------
    tokenizer : gives the vocabulary size and the ids of the special tokens.
    vision, text : overrides of ``CLIPVisionConfig`` and ``LlamaConfig``, for tests and smoke runs.
    """
    vision_config = CLIPVisionConfig(
        **{
            "hidden_size": 256,
            "intermediate_size": 1024,
            "num_hidden_layers": 7,
            "num_attention_heads": 4,
            "image_size": 224,
            "patch_size": 14,
            "projection_dim": 256,
            **(vision or {}),
        }
    )
    text_config = LlamaConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 256,
            "intermediate_size": 704,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 1024,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            **(text or {}),
        }
    )
    return llava_config(
        vision_config,
        text_config,
        tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        tokenizer.pad_token_id,
    )


def llava_config(
    vision: CLIPVisionConfig,
    text: LlamaConfig | dict,
    image: int,
    pad: int,
    *,
    tie_word_embeddings: bool = False,
) -> LlavaConfig:
    """LLaVA-1.5's choices around a tower and a language model; image, pad: ids of their tokens."""
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image,
        pad_token_id=pad,
        projector_hidden_act="gelu",
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
        tie_word_embeddings=tie_word_embeddings,
    )
    config.image_seq_length = patches(config)
    return config


def build_embedded(
    tokenizer: PreTrainedTokenizerFast,
    *,
    vision: dict | None = None,
    text: dict | None = None,
    random_state: int = 0,
) -> LlavaForConditionalGeneration:
    """The embedded architecture with fresh weights (transformers' own initialisation)."""
    return fresh(embedded_config(tokenizer, vision=vision, text=text), tokenizer, random_state)


def fresh(
    config: LlavaConfig, tokenizer: PreTrainedTokenizerFast, random_state: int
) -> LlavaForConditionalGeneration:
    """A LLaVA with seeded weights, which ends and fills up with the tokenizer's tokens."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state)
        model = LlavaForConditionalGeneration(config)
    for key in ("pad", "bos", "eos"):
        setattr(model.generation_config, f"{key}_token_id", getattr(tokenizer, f"{key}_token_id"))
    return model


def embedded_tokenizer() -> PreTrainedTokenizerFast:
    check_folder(paths.embedded_dir())
    return PreTrainedTokenizerFast.from_pretrained(str(paths.embedded_dir()))
