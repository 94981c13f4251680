"""Tiny random models for the tests, built from configs: nothing is downloaded."""

from __future__ import annotations

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
)

IMAGE, PAD, EOS, VOCABULARY = 90, 0, 2, 96
PATCH, SIDE = 7, 6  # 6 x 6 patches
TOKENS = SIDE * SIDE


def _configs(layers: int, tower: int = 5) -> tuple[CLIPVisionConfig, LlamaConfig]:
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=tower, num_attention_heads=4,
        image_size=PATCH * SIDE, patch_size=PATCH, projection_dim=32,
    )  # fmt: skip
    text = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=VOCABULARY, max_position_embeddings=512,
        pad_token_id=PAD, bos_token_id=1, eos_token_id=EOS,
    )  # fmt: skip
    return vision, text


def tiny_llava(
    *,
    layers: int = 5,
    tower: int = 5,
    attention: str = "sdpa",
    seed: int = 0,
    strategy: str = "default",
) -> LlavaForConditionalGeneration:
    """A LLaVA of a few thousand parameters: 36 visual tokens, 5 language layers, float32."""
    vision, text = _configs(layers, tower)
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE,
        vision_feature_layer=-2, vision_feature_select_strategy=strategy,
        image_seq_length=TOKENS,
    )  # fmt: skip
    return finish(LlavaForConditionalGeneration, config, attention, seed)


def tiny_llava_next(*, attention: str = "sdpa", seed: int = 0) -> LlavaNextForConditionalGeneration:
    """A LLaVA-NeXT of the same size, with tiles."""
    vision, text = _configs(5)
    side = PATCH * SIDE
    config = LlavaNextConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE,
        image_grid_pinpoints=[[side, 2 * side], [2 * side, side]],
        vision_feature_layer=-2, vision_feature_select_strategy="default",
    )  # fmt: skip
    return finish(LlavaNextForConditionalGeneration, config, attention, seed)


def finish(kind, config, attention="sdpa", seed=0):
    """A random model of a configuration whose tokens differ from each other."""
    torch.manual_seed(seed)
    config._attn_implementation = attention
    model = kind._from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():  # default initialisation is so small that every token looks alike
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
        model.get_input_embeddings().weight.normal_()
        if hasattr(model.model, "image_newline"):
            model.model.image_newline.normal_()
    model.generation_config.eos_token_id = None  # fixed lengths, unless a test asks otherwise
    model.generation_config.pad_token_id = PAD
    return model


def pixels(images: int, *, seed: int = 0) -> torch.Tensor:
    """`(images, 3, 42, 42)` smooth random images: neighbouring patches resemble each other."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(images, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(
        coarse, size=(PATCH * SIDE, PATCH * SIDE), mode="bilinear"
    )
    return smooth + 0.1 * torch.randn(smooth.shape, generator=generator)


def prompt(*, before: int, after: int, images: int = 1, seed: int = 0) -> list[int]:
    """Token ids: text, an image, text; further images are followed by two text tokens each."""
    generator = torch.Generator().manual_seed(1000 + seed)
    words = torch.randint(3, 80, (before + after + 2 * images,), generator=generator).tolist()
    ids = [1, *words[:before]]
    for image in range(images):
        ids += [IMAGE] * TOKENS
        if image < images - 1:
            ids += words[before + after + 2 * image :][:2]
    return ids + words[before : before + after]


def batch(prompts: list[list[int]], images: int, *, seed: int = 0, side: str = "left") -> dict:
    """Padded model inputs; `images` counts the images of all prompts together."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), PAD)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(prompts):
        where = slice(longest - len(tokens), None) if side == "left" else slice(len(tokens))
        ids[row, where] = torch.tensor(tokens)
        mask[row, where] = 1
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels(images, seed=seed)}


def one(*, seed: int = 0) -> dict:
    """One prompt with one image."""
    return batch([prompt(before=4, after=5, seed=seed)], 1, seed=seed)


def ragged(*, seed: int = 0) -> dict:
    """Three left-padded prompts of different lengths; the second one holds two images."""
    prompts = [
        prompt(before=2, after=4, seed=seed),
        prompt(before=3, after=6, images=2, seed=seed + 1),
        prompt(before=7, after=3, seed=seed + 2),
    ]
    return batch(prompts, 4, seed=seed)
