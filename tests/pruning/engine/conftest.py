"""A tiny LLaVA, and no gradients."""

import pytest
import torch

from tests.tiny import tiny_llava


@pytest.fixture(scope="module")
def model():
    return tiny_llava()


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield
