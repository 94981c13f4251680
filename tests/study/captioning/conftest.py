"""A tiny captioner and pictures for it."""

import numpy as np
import pytest
import torch
from PIL import Image

from lib.study import models
from tests.study.captioning.kit import PATCH, SIDE, Picture


@pytest.fixture(scope="module")
def kit():
    """A random LLaVA whose captions depend on the image, and its processor."""
    tokenizer = models.train_tokenizer(["a red circle and two blue squares"], vocab_size=300)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
              "image_size": SIDE, "patch_size": PATCH}  # fmt: skip
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4}
    model = models.build_embedded(tokenizer, vision=vision, text=text)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
        model.model.language_model.embed_tokens.weight.normal_(generator=generator)
        model.model.multi_modal_projector.linear_2.weight.mul_(20)
    model.generation_config.eos_token_id = None
    return model.eval(), models.build_processor(tokenizer, image_size=SIDE, patch_size=PATCH)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    examples = []
    for number in range(8):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        path = folder / f"{number}.png"
        coarse.resize((60 + number, 50)).save(path)
        examples.append(Picture(100 - 7 * number, path))
    return examples
