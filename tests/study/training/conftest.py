"""A tiny LLaVA with adapters, on which the caption stages are checked."""

import pytest
import torch

from lib.study import models
from lib.study.data.scenes import captions, sample_scene
from lib.study.training.adapters import add_adapters

VISION = {"num_hidden_layers": 3, "hidden_size": 32, "intermediate_size": 48,
          "num_attention_heads": 2, "image_size": 56}  # fmt: skip
TEXT = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48,
        "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip


@pytest.fixture(scope="session")
def processor():
    said = [text for i in range(40) for text in captions(sample_scene(i))]
    return models.build_processor(models.train_tokenizer(said, vocab_size=400), image_size=56)


@pytest.fixture
def model(processor):
    """16 visual tokens, two language layers; the adapters are not zero."""
    built = models.build_embedded(
        processor.tokenizer, vision=VISION, text=TEXT, random_state=3
    ).eval()
    add_adapters(built, rank=2, dropout=0.0)
    with torch.no_grad():
        torch.manual_seed(0)
        for name, weight in built.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
            elif weight.ndim == 2:  # far enough from uniform that likeliest words are distinct
                weight.mul_(3)
    return built
