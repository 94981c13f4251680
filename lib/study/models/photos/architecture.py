"""The photograph model's design: SmolLM2, a CLIP tower at 384 wide, the tokenizer, the prompt."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from ..embedded import IMAGE_TOKEN, fresh, llava_config, llava_processor

#: A token of SmolLM2 that no text here uses; it becomes ``<image>``.
PLACEHOLDER = "<jupyter_text>"

#: SmolLM2's own chat, without a system message, the image in front of the question.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] }}{% endfor %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

#: The tower: CLIP's architecture at 384 wide. Nine layers learn; LLaVA reads the one before last,
#: so the tenth is never used and stays the identity.
VISION = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 10,
    "num_attention_heads": 6,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 384,
    "hidden_act": "quick_gelu",
}


def read_gguf(path: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A GGUF file's language model, dequantised to float32, and its tokenizer with ``<image>``.

    Raises
    ------
    ValueError : the vocabulary has no ``<jupyter_text>``, so nothing can stand for an image.
    """
    path = Path(path)
    words = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32
    )
    return model.eval(), image_tokenizer(words)


def image_tokenizer(words: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same vocabulary with the placeholder called ``<image>``; nothing is added to it."""
    core = words.backend_tokenizer.to_str()
    if f'"{PLACEHOLDER}"' not in core:
        raise ValueError(f"the language model's vocabulary has no {PLACEHOLDER!r}")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(core.replace(f'"{PLACEHOLDER}"', f'"{IMAGE_TOKEN}"')),
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        additional_special_tokens=[IMAGE_TOKEN],
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def photo_processor(
    tokenizer: PreTrainedTokenizerFast, *, image_size: int = 224, patch_size: int = 14
) -> LlavaProcessor:
    """LLaVA's processor; the whole photograph is squashed to a square, as in training."""
    images = CLIPImageProcessorPil(
        size={"height": image_size, "width": image_size}, do_center_crop=False
    )
    return llava_processor(images, tokenizer, patch_size=patch_size, chat_template=CHAT_TEMPLATE)


def build(
    language: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    vision: dict | None = None,
    random_state: int = 0,
) -> LlavaForConditionalGeneration:
    """A LLaVA around a language model: fresh tower and projector, its last layer the identity.

    Parameters
    ----------
    vision : overrides of the tower's `CLIPVisionConfig`, for tests and smoke runs.
    """
    vision_config = CLIPVisionConfig(**{**VISION, **(vision or {})})
    text = language.config.to_dict()
    text.pop("quantization_config", None)
    text["pad_token_id"] = tokenizer.pad_token_id
    text["dtype"] = "float32"
    config = llava_config(
        vision_config,
        text,
        tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        tokenizer.pad_token_id,
        tie_word_embeddings=language.config.tie_word_embeddings,
    )
    model = fresh(config, tokenizer, random_state)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    with torch.no_grad():
        for name, weight in model.model.vision_tower.encoder.layers[-1].named_parameters():
            if name.startswith(("self_attn.out_proj", "mlp.fc2")):
                weight.zero_()
    return model.eval()
