"""A tiny LLaVA and its processor, pictures for it, and requests as lmms-eval makes them."""

import copy

import numpy as np
import pytest
from PIL import Image

from lib.study import models
from tests.plugins.lmms_eval.kit import WORDS
from tests.tiny_captioner import tiny_captioner


@pytest.fixture(scope="package")
def tiny():
    """The model and its processor."""
    return tiny_captioner(WORDS)


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
