"""The teacher: folding its batch norms changes nothing, its features are where they should be."""

import pytest
import torch

pytest.importorskip("efficientnet_lite_pytorch")

from efficientnet_lite_pytorch import EfficientNet

from lib.study.training.teacher import SIDE, Teacher


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights whose batch norms are not the identity."""
    torch.manual_seed(0)
    network = EfficientNet.from_name("efficientnet-lite0", image_size=SIDE)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    path = tmp_path_factory.mktemp("teacher") / "lite0.pth"
    torch.save(network.state_dict(), path)
    return path, network.eval()


def test_it_is_the_published_network(weights):
    path, network = weights
    teacher = Teacher("efficientnet-lite0", path)
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    known = teacher(images)
    with torch.no_grad():
        pixels = (images * 255 - 127) / 128
        expected, last = network(pixels), network.extract_features(pixels)
    got = teacher.classifier(known.pooled)
    assert (got - expected).norm() < 1e-3 * expected.norm()
    places = known.places.transpose(1, 2).unflatten(2, (8, 8))
    assert (places - last).norm() < 1e-3 * last.norm()
    assert known.maps.shape == (2, 256, teacher.width) and known.pooled.shape == (2, 1280)


def test_a_place_of_its_map_looks_at_that_place(weights):
    """Changing a corner changes the features there most: rows first, as the tower's patches."""
    teacher = Teacher("efficientnet-lite0", weights[0])
    images = torch.full((2, 3, SIDE, SIDE), 0.5)
    images[1, :, :32, -32:] = 1.0  # top right
    maps = teacher(images).maps
    change = (maps[1] - maps[0]).norm(dim=1).view(16, 16)
    row, column = divmod(int(change.argmax()), 16)
    assert row <= 3 and column >= 12
