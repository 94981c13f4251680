"""A tiny captioner and pictures for it."""

import numpy as np
import pytest
from PIL import Image

from tests.study.captioning.kit import Picture
from tests.tiny_captioner import tiny_captioner


@pytest.fixture(scope="module")
def kit():
    """A random LLaVA whose captions depend on the image, and its processor."""
    model, processor = tiny_captioner(["a red circle and two blue squares"])
    model.generation_config.eos_token_id = None
    return model, processor


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
