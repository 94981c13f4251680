"""A tiny LLaVA and its processor, pictures for it, and requests as lmms-eval makes them."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from lib.study import models
from tests.plugins.lmms_eval.kit import PATCH, SIDE, WORDS


@pytest.fixture(scope="package")
def tiny():
    """A random LLaVA whose answers depend on the image, and its processor."""
    tokenizer = models.train_tokenizer(WORDS, vocab_size=300)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4}
    model = models.build_embedded(
        tokenizer, vision=small | {"image_size": SIDE, "patch_size": PATCH}, text=small
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
        model.model.language_model.embed_tokens.weight.normal_(generator=generator)
        model.model.multi_modal_projector.linear_2.weight.mul_(20)
    return model.eval(), models.build_processor(tokenizer, image_size=SIDE, patch_size=PATCH)


@pytest.fixture
def model(tiny):
    return tiny[0]


@pytest.fixture
def processor(tiny):
    """A copy: the plug-in sets the side of its padding."""
    return copy.deepcopy(tiny[1])


@pytest.fixture(scope="package")
def folder(tiny, tmp_path_factory):
    """The tiny model on disk."""
    place = tmp_path_factory.mktemp("tiny")
    models.save(*tiny, place)
    return place


@pytest.fixture(scope="package")
def images():
    """Six smooth random images of different sizes."""
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)) for _ in range(6)]
    return [image.resize((60 + 3 * number, 50)) for number, image in enumerate(coarse)]
