"""The same bytes everywhere, quiet areas, and labels that show every object."""

import hashlib

import numpy as np
import pytest

from lib.study.data.scenes import BACKGROUNDS, VERSION, draw, patch_labels, sample_scene

# One seed a background: sha256 of the pixels. Whoever changes one raises `scenes.VERSION`.
PIXELS = {
    0: ("gradient", "6f934bb596c7e154"),
    1: ("bricks", "063dca2cd1dde602"),
    2: ("tiles", "00e750be2020dcbb"),
    3: ("grain", "28a113e4779e81a9"),
    4: ("dots", "42651409ae7c5e8a"),
    6: ("stripes", "177a4851c5ea7b63"),
    9: ("wood", "395ad3f35a68a147"),
    12: ("plain", "cd24774df0721a1e"),
    19: ("field", "32542dbde5dbc8be"),
    23: ("palace", "93b360512edabcf3"),
    26: ("flower", "b7f74c665716ebf8"),
    1_000_000_003: ("flower", "42f5676c4b61edb1"),
    2_000_000_999: ("grain", "f71246375505ce6b"),
}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


@pytest.mark.parametrize("seed", PIXELS)
def test_pixels_are_the_published_bytes(seed):
    scene = sample_scene(seed)
    image = draw(scene)
    assert (scene.background, digest(image.tobytes())) == PIXELS[seed]
    assert image.shape == (224, 224, 3) and image.dtype == np.uint8


def test_every_background_has_a_checksum():
    assert {background for background, _ in PIXELS.values()} == set(BACKGROUNDS)
    assert VERSION == 1, "new version: update the checksums above"


def test_pictures_have_quiet_areas():
    """A good part of a picture repeats itself: many patches hardly vary, on some backgrounds."""
    flat = []
    for seed in range(60):
        grey = draw(sample_scene(seed)).mean(-1).reshape(16, 14, 16, 14).transpose(0, 2, 1, 3)
        flat.append((grey.reshape(256, -1).std(1) < 8).mean())
    assert np.mean(flat) > 0.3


def test_patch_labels_show_every_object():
    for seed in range(200):
        scene = sample_scene(seed)
        labels = patch_labels(scene)
        assert labels.shape == (16, 16)
        # a small ring or cross may miss every patch's 12 pixels only when split four ways
        seen = set(np.unique(labels)) - {0}
        for number, item in enumerate(scene.objects, 1):
            x, y, w, _ = item.box
            if item.size != "small":
                assert number in seen
        for row, column in np.argwhere(labels):
            x, y, w, h = scene.objects[labels[row, column] - 1].box
            assert x < (column + 1) * 14 and x + w > column * 14
            assert y < (row + 1) * 14 and y + h > row * 14
