"""Tiny models of the newer families with processors of their own, as folders on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    Idefics3Processor,
    InternVLProcessor,
    LlavaNextProcessor,
    LlavaOnevisionProcessor,
    Qwen2_5_VLProcessor,
    Qwen3VLProcessor,
    SmolVLMProcessor,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from lib.study import models
from lib.study.models.stills import stills
from tests.pruning.families.tiny import ALL, IDEFICS3

WORDS = ["a red circle and two blue squares on a grey table near the window"]

_QWEN = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_PLAIN = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
_MARKS = {
    "qwen": ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
             "<|video_pad|>"],
    "internvl": ["<img>", "</img>", "<IMG_CONTEXT>", "<video>"],
    "smolvlm": ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<image>",
                *[f"<row_{r}_col_{c}>" for r in range(1, 4) for c in range(1, 4)]],
    "llava_onevision": ["<image>", "<video>"],
    "llava_next": ["<image>"],
}  # fmt: skip


def save(name: str, folder: Path) -> Path:
    """Write the tiny model of a family and its processor; the vocabulary is the tokenizer's."""
    kind = "smolvlm" if name == "idefics3" else "qwen" if name.startswith("qwen") else name
    tokenizer = models.train_tokenizer(WORDS, vocab_size=300)
    tokenizer.add_special_tokens({"additional_special_tokens": _MARKS[kind]})
    model = (ALL | {"idefics3": IDEFICS3})[name].model()
    processor = _PROCESSORS[kind](name, tokenizer)
    _fit(model, tokenizer, processor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _fit(model: Any, tokenizer: Any, processor: Any) -> None:
    """Let the model know the tokenizer's words and placeholders."""
    torch.manual_seed(1)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_()
    ids = {"image_token_id": processor.image_token}
    if hasattr(model.config, "video_token_id"):
        ids["video_token_id"] = getattr(processor, "video_token", "<video>")
    if hasattr(model.config, "vision_start_token_id"):
        ids |= {
            "vision_start_token_id": "<|vision_start|>",
            "vision_end_token_id": "<|vision_end|>",
        }
    for key, token in ids.items():
        setattr(model.config, key, tokenizer.convert_tokens_to_ids(token))


def _qwen(name: str, tokenizer: Any) -> Any:
    images = Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2, min_pixels=16 * 64, max_pixels=48 * 64
    )
    processor = Qwen2_5_VLProcessor if name == "qwen2_5_vl" else Qwen3VLProcessor
    return _built(processor, images, tokenizer, chat_template=_QWEN)


def _onevision(name: str, tokenizer: Any) -> Any:
    images = LlavaOnevisionImageProcessorPil(
        size={"height": 42, "width": 42}, image_grid_pinpoints=[[42, 42], [42, 84], [84, 42]]
    )
    return _built(
        LlavaOnevisionProcessor, images, tokenizer, num_image_tokens=36,
        vision_feature_select_strategy="full", chat_template=_PLAIN.replace("IMAGE", "<image>\n"),
    )  # fmt: skip


def _next(name: str, tokenizer: Any) -> Any:
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 42}, crop_size={"height": 42, "width": 42},
        image_grid_pinpoints=[[42, 84], [84, 42]],
    )  # fmt: skip
    return LlavaNextProcessor(
        images, tokenizer, patch_size=7, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=_PLAIN.replace("IMAGE", "<image>\n"),
    )  # fmt: skip


def _internvl(name: str, tokenizer: Any) -> Any:
    marks = {"start_image_token": "<img>", "end_image_token": "</img>",
             "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}  # fmt: skip
    tokenizer._set_model_specific_special_tokens(special_tokens=marks)
    tokenizer.init_kwargs["extra_special_tokens"] = marks
    images = GotOcr2ImageProcessorPil(
        size={"height": 32, "width": 32}, crop_to_patches=True, min_patches=1, max_patches=3
    )
    return _built(
        InternVLProcessor, images, tokenizer, image_seq_length=16,
        chat_template=_PLAIN.replace("IMAGE", "<IMG_CONTEXT>\n"),
    )  # fmt: skip


def _smolvlm(name: str, tokenizer: Any) -> Any:
    kind, processor = (
        (Idefics3ImageProcessorPil, Idefics3Processor)
        if name == "idefics3"
        else (SmolVLMImageProcessorPil, SmolVLMProcessor)
    )
    images = kind(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return _built(
        processor, images, tokenizer, image_seq_len=16,
        chat_template=_PLAIN.replace("IMAGE", "<image>"),
    )  # fmt: skip


_PROCESSORS = {
    "qwen": _qwen, "internvl": _internvl, "smolvlm": _smolvlm, "llava_onevision": _onevision,
    "llava_next": _next,
}  # fmt: skip


def _built(kind: type, images: Any, tokenizer: Any, **options: Any) -> Any:
    """A processor of a class, without its video part where it has one."""
    configs = {config.__name__: config for config in map(type, _configs())}
    config = configs[kind.__name__.replace("Processor", "Config")]
    still = stills(config())
    return (
        kind(images, tokenizer, **options)
        if still is None
        else still(images, tokenizer, None, **options)
    )


def _configs() -> list[Any]:
    return [tiny.model().config for tiny in (*ALL.values(), IDEFICS3)]
