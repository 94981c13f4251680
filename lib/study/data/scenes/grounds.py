"""The eleven backgrounds, each with the redundancy of a photograph.

Quiet areas, repeated texture, or a crop of one of the two photographs that scikit-learn ships.
Whole numbers throughout; the order in which a background draws its random choices is part of it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from .layout import SIZE, Scene
from .rng import Rng
from .words import BACKGROUNDS

#: (SIZE, 1) rows and (1, SIZE) columns
Y, X = np.arange(SIZE, dtype=np.int16)[:, None], np.arange(SIZE, dtype=np.int16)[None, :]
ZERO = np.zeros((SIZE, SIZE), np.int16)
#: first digits of the SHA-256 of each photograph's pixels, as libjpeg-turbo decodes them
PHOTOGRAPHS = {"china.jpg": "e701459344fd6979", "flower.jpg": "3202904ed246795b"}


class Palette(NamedTuple):
    """What a background is made from: its seed, its choices, and its two muted colours."""

    seed: int
    rng: Rng
    base: np.ndarray
    other: np.ndarray

    def tone(self, level: np.ndarray) -> np.ndarray:
        """Blend the two colours by a level of 0…256; (SIZE, SIZE, 3) int16."""
        return blend(level, self.base, self.other)


def ground(scene: Scene, rng: Rng) -> np.ndarray:
    """The background of a scene, (SIZE, SIZE, 3) int16.

    Raises
    ------
    ValueError : unknown background.
    """
    base = muted(rng)
    other = base + np.int16(rng.pick((-34, -26, 26, 34)))
    if scene.background not in _DRAWN:
        raise ValueError(
            f"unknown background {scene.background!r}: use one of {', '.join(BACKGROUNDS)}"
        )
    return _DRAWN[scene.background](Palette(scene.seed, rng, base, other))


# ------------------------------------------------------------------------------------------- parts


def noise(seed: int, stream: int, count: int) -> np.ndarray:
    """``count`` uniform bytes as int16; PCG64's raw output is guaranteed never to change."""
    words = np.random.PCG64(seed * 16 + stream).random_raw((count + 7) // 8)
    return words.astype("<u8").view(np.uint8)[:count].astype(np.int16)


def smooth(seed: int, stream: int, cell: int, *, stretch: int = 1) -> np.ndarray:
    """Bilinear value noise, (SIZE, SIZE) int16 in 0…255, by whole-number interpolation."""
    rows, cols = SIZE // cell + 2, SIZE // (cell * stretch) + 2
    grid = noise(seed, stream, rows * cols).reshape(rows, cols).astype(np.int32)
    i = np.arange(SIZE)
    q, f = i // cell, (i % cell)[:, None]
    lines = grid[q] * (cell - f) + grid[q + 1] * f
    wide = cell * stretch
    q, f = i // wide, i % wide
    return ((lines[:, q] * (wide - f) + lines[:, q + 1] * f) // (cell * wide)).astype(np.int16)


def muted(rng: Rng, low: int = 96, high: int = 200, spread: int = 20) -> np.ndarray:
    """A colour of low saturation, far from every object's."""
    grey = rng.between(low, high)
    return np.array([grey + rng.between(-spread, spread) for _ in range(3)], np.int16)


def blend(level: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Blend two colours by a level of 0…256 (their differences are small: int16 suffices)."""
    out = np.empty((SIZE, SIZE, 3), np.int16)
    for channel in range(3):
        out[..., channel] = low[channel] + ((high[channel] - low[channel]) * level >> 8)
    return out


@cache
def photograph(name: str) -> np.ndarray:
    """One of scikit-learn's two photographs, (427, 640, 3) uint8.

    Read from where scikit-learn is installed, without importing it, which takes seconds.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{name} belongs to scikit-learn, which is absent: make setup")
    with Image.open(Path(spec.submodule_search_locations[0], "datasets", "images", name)) as image:
        photo = np.array(image.convert("RGB"))
    digest = hashlib.sha256(photo.tobytes()).hexdigest()
    if not digest.startswith(PHOTOGRAPHS[name]):
        # libjpeg-turbo, which Pillow's wheels and conda builds carry, decodes to these bytes.
        warnings.warn(
            f"{name} decodes to other pixels here (sha256 {digest[:16]}): scenes on that "
            "photograph will differ by rounding; a Pillow built with libjpeg-turbo gives "
            "the published bytes",
            stacklevel=2,
        )
    return photo


# ------------------------------------------------------------------------------------- backgrounds


def _plain(p: Palette) -> np.ndarray:
    return p.tone(ZERO)


def _gradient(p: Palette) -> np.ndarray:
    a, b = p.rng.between(-4, 4), p.rng.between(-4, 4)
    ramp = (a * X + b * Y).astype(np.int32)
    ramp = ramp - ramp.min()
    return p.tone(ramp * 256 // max(int(ramp.max()), 1))


def _grain(p: Palette) -> np.ndarray:
    fine = noise(p.seed, 1, SIZE * SIZE).reshape(SIZE, SIZE) * np.int16(2) // 3
    return p.tone(fine + smooth(p.seed, 2, 28) // 3)


def _stripes(p: Palette) -> np.ndarray:
    width, turn = p.rng.between(6, 20), p.rng.below(3)
    phase = (X + ZERO, Y + ZERO, X + Y)[turn]
    return p.tone((phase // width % 2) * np.int16(256))


def _tiles(p: Palette) -> np.ndarray:
    width = p.rng.between(12, 30)
    return p.tone(((X // width + Y // width) % 2) * np.int16(256))


def _dots(p: Palette) -> np.ndarray:
    step = p.rng.between(12, 24)
    radius = p.rng.between(2, 4)
    u = (X + (Y // step % 2) * (step // 2)) % step - step // 2
    v = Y % step - step // 2
    return p.tone((u * u + v * v <= radius * radius).astype(np.int16) * np.int16(256))


def _bricks(p: Palette) -> np.ndarray:
    height = p.rng.between(12, 22)
    row = Y // height
    column = (X + (row % 2) * height) // (2 * height)
    mortar = (Y % height < 2) | ((X + (row % 2) * height) % (2 * height) < 2)
    shade = noise(p.seed, 3, 4096)[(row * 37 + column) % 4096] // 2
    return p.tone(np.where(mortar, np.int16(256), shade // 2))


def _wood(p: Palette) -> np.ndarray:
    rings = smooth(p.seed, 4, 12, stretch=6) * np.int16(3) + Y
    level = abs(rings % 64 - 32) * np.int16(7)
    grain = np.array([26, 2, -30], np.int16)
    return blend(level, p.base + grain, p.other + grain)


def _field(p: Palette) -> np.ndarray:
    horizon = p.rng.between(80, 150)
    sky = np.array([150, 178, 204], np.int16) + np.int16(p.rng.between(-14, 14))
    grass = np.array([92, 112, 74], np.int16) + np.int16(p.rng.between(-12, 12))
    blades = noise(p.seed, 5, SIZE * SIZE).reshape(SIZE, SIZE)
    low = blend(blades, grass, grass + np.int16(40))
    high = blend((256 - Y * 256 // SIZE) + ZERO, sky + np.int16(26), sky)
    return np.where((horizon > Y)[..., None], high, low)


def _crop_of(name: str) -> Callable[[Palette], np.ndarray]:
    def crop(p: Palette) -> np.ndarray:
        photo = photograph(name)
        top = p.rng.below(photo.shape[0] - SIZE + 1)
        left = p.rng.below(photo.shape[1] - SIZE + 1)
        part = photo[top : top + SIZE, left : left + SIZE].astype(np.int16)
        if p.rng.chance(50):
            part = part[:, ::-1]
        # A hazier print: contrast of 9/16 to 12/16 about a mid grey.
        return 128 + ((part - 128) * np.int16(p.rng.between(9, 12)) >> 4)

    return crop


_DRAWN: dict[str, Callable[[Palette], np.ndarray]] = {
    "plain": _plain,
    "gradient": _gradient,
    "grain": _grain,
    "stripes": _stripes,
    "tiles": _tiles,
    "dots": _dots,
    "bricks": _bricks,
    "wood": _wood,
    "field": _field,
    "flower": _crop_of("flower.jpg"),
    "palace": _crop_of("china.jpg"),
}
