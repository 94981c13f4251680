"""A scene's pixels, and what each patch of them shows."""

from __future__ import annotations

import numpy as np

from .grounds import ground, muted, smooth
from .layout import SIZE, Scene
from .rng import Rng
from .shapes import coverage, paint

PATCH = 14  # pixels a side of the model's patch

_RGB = {
    "red": (212, 28, 36),
    "orange": (246, 132, 18),
    "yellow": (250, 222, 40),
    "green": (24, 160, 56),
    "blue": (30, 76, 216),
    "purple": (122, 40, 168),
    "pink": (250, 128, 186),
    "white": (250, 250, 250),
    "black": (16, 16, 18),
}


def _clutter(canvas: np.ndarray, rng: Rng) -> None:
    """Pebbles and scratches in muted tones: unlike their surroundings, and never mentioned."""
    for _ in range(rng.between(3, 10)):
        x, y = rng.below(SIZE), rng.below(SIZE)
        tint = tuple(int(v) for v in muted(rng, 70, 200, 8))
        if rng.chance(55):
            paint(canvas, coverage("circle", rng.between(3, 7)) * np.int16(3) // 4, x, y, tint)
        else:
            length = rng.between(6, 22)
            shape = (1, length) if rng.chance(50) else (length, 1)
            paint(canvas, np.full(shape, 180, np.int16), x, y, tint)


def draw(scene: Scene) -> np.ndarray:
    """Draw a scene.

    Returns
    -------
    (224, 224, 3) uint8 array, the same bytes on every machine.

    Examples
    --------
    >>> from lib.study.data.scenes import sample_scene
    >>> image = draw(sample_scene(7))
    >>> image.shape, image.dtype.name
    ((224, 224, 3), 'uint8')
    """
    rng = Rng(scene.seed * 4 + 3)
    canvas = np.ascontiguousarray(ground(scene, rng), np.int16)
    if rng.chance(45):  # a shadow or a light from one side
        light = smooth(scene.seed, 6, 112) // np.int16(8) - np.int16(16)
        for channel in range(3):
            canvas[..., channel] += light
    np.clip(canvas, 24, 236, out=canvas)
    if rng.chance(45):
        _clutter(canvas, rng)
    for item in scene.objects:
        x, y, side, _ = item.box
        rgb = tuple(min(255, max(0, v + rng.between(-9, 9))) for v in _RGB[item.colour])
        rim = (200, 200, 204) if item.colour in ("black", "purple", "blue") else (48, 46, 50)
        paint(canvas, coverage(item.shape, side), x, y, rim)
        paint(canvas, coverage(item.shape, side - 2), x + 1, y + 1, rgb)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def patch_labels(scene: Scene, patch: int = PATCH) -> np.ndarray:
    """What each patch shows: object index + 1, or 0 for background.

    A patch belongs to the object that covers most of it, if that is at least 12 pixels.

    Returns
    -------
    (SIZE / patch, SIZE / patch) int64 array.
    """
    cells = SIZE // patch
    best = np.full((cells, cells), 12 * 256 - 1, np.int64)
    labels = np.zeros((cells, cells), np.int64)
    for number, item in enumerate(scene.objects, start=1):
        x, y, side, _ = item.box
        x0, y0 = x // patch, y // patch
        x1, y1 = (x + side - 1) // patch + 1, (y + side - 1) // patch + 1
        area = np.zeros(((y1 - y0) * patch, (x1 - x0) * patch), np.int64)
        area[y - y0 * patch :, x - x0 * patch :][:side, :side] = coverage(item.shape, side)
        share = area.reshape(y1 - y0, patch, x1 - x0, patch).sum((1, 3))
        window = best[y0:y1, x0:x1]
        labels[y0:y1, x0:x1][share > window] = number
        np.maximum(window, share, out=window)
    return labels
