"""What is timed is what the study asks."""

import torch
from PIL import Image

from lib.study.cost.prompts import random_prompts, study_prompts
from lib.study.models import format_prompt, load
from tests.study.captioning.kit import Picture
from tests.tiny import TOKENS, tiny_llava


def test_the_studys_prompt_is_the_one_that_captions_are_made_with(tmp_path):
    model, processor, _ = load("embedded", device="cpu")
    for number in range(2):
        Image.effect_noise((90, 60), 50).convert("RGB").save(tmp_path / f"{number}.png")
    examples = [Picture(number, tmp_path / f"{number}.png") for number in range(2)]
    inputs = study_prompts(model, processor, examples, "What is red?", 3)
    expected = processor.tokenizer(
        format_prompt(processor, "What is red?").replace("<image>", "<image>" * 256)
    )["input_ids"]
    assert inputs["input_ids"].tolist() == [expected] * 3
    first, second, third = inputs["pixel_values"]
    assert torch.equal(first, third) and not torch.equal(first, second)


def test_random_prompts_are_the_same_for_every_method():
    model = tiny_llava()
    first, second = (random_prompts(model, 3, text=10) for _ in range(2))
    assert all(first[name].equal(second[name]) for name in first)
    assert first["input_ids"].shape == (3, TOKENS + 10)
    assert (first["input_ids"] == model.config.image_token_id).sum() == 3 * TOKENS
