import pytest
import torch

from tests.tiny import tiny_llava, tiny_llava_next


@pytest.fixture(scope="session")
def model():
    return tiny_llava()


@pytest.fixture(scope="session")
def tiled():
    return tiny_llava_next()


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield
