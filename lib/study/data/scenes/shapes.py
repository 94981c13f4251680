"""The nine shapes, as coverage of pixels, and painting them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from .layout import SIZE


def _inside(polygon: tuple[tuple[int, int], ...], u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Even-odd test of integer points in an integer polygon."""
    inside = np.zeros(np.broadcast_shapes(u.shape, v.shape), bool)
    for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1]):
        if y0 == y1:
            continue
        crosses = (v >= min(y0, y1)) & (v < max(y0, y1))
        left = (u - x0) * (y1 - y0) < (v - y0) * (x1 - x0)
        inside ^= crosses & (left if y1 > y0 else ~left)
    return inside


# Unit shapes in thousandths of the half-side, y downwards.
_TRIANGLE = ((0, -980), (980, 850), (-980, 850))
_STAR = (
    (0, -1000),
    (259, -357),
    (951, -309),
    (419, 136),
    (588, 809),
    (0, 440),
    (-588, 809),
    (-419, 136),
    (-951, -309),
    (-259, -357),
)
_HEART = ((-930, -170), (0, -420), (930, -170), (0, 960))


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    lobes = (abs(u) - 480) ** 2 + (v + 380) ** 2 <= 260_000
    return lobes | _inside(_HEART, u, v)


# Whether a point (u, v) of the unit shape, in thousandths, belongs to it.
_HIT: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda u, v: u * u + v * v <= 940_000,
    "ring": lambda u, v: (u * u + v * v <= 1_000_000) & (u * u + v * v >= 300_000),
    "square": lambda u, v: (abs(u) <= 880) & (abs(v) <= 880),
    "diamond": lambda u, v: 10 * abs(u) + 7 * abs(v) <= 7000,
    "cross": lambda u, v: (abs(u) <= 310) | (abs(v) <= 310),
    "moon": lambda u, v: (u * u + v * v <= 1_000_000) & ((u - 480) ** 2 + v * v > 640_000),
    "triangle": lambda u, v: _inside(_TRIANGLE, u, v),
    "star": lambda u, v: _inside(_STAR, u, v),
    "heart": _heart,
}


@cache
def coverage(shape: str, side: int) -> np.ndarray:
    """How much of each pixel a shape covers, (side, side) int16 in 0…256, from 8 × 8 samples.

    Raises
    ------
    ValueError : unknown shape.
    """
    if shape not in _HIT:
        raise ValueError(f"unknown shape {shape!r}: use one of {', '.join(_HIT)}")
    over = 8
    steps = (2 * np.arange(side * over, dtype=np.int64) + 1 - side * over) * 1000 // (side * over)
    hit = _HIT[shape](steps[None, :], steps[:, None])
    return hit.reshape(side, over, side, over).sum((1, 3)).astype(np.int16) * np.int16(4)


def paint(canvas: np.ndarray, cover: np.ndarray, x: int, y: int, rgb: tuple[int, ...]) -> None:
    """Blend a colour into an int16 canvas where ``cover`` (0…256) says so; clips to the canvas."""
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + cover.shape[1], SIZE), min(y + cover.shape[0], SIZE)
    if x0 >= x1 or y0 >= y1:
        return
    window = canvas[y0:y1, x0:x1]
    part = cover[y0 - y : y1 - y, x0 - x : x1 - x, None].astype(np.int32)
    window += ((np.array(rgb, np.int32) - window) * part >> 8).astype(np.int16)
