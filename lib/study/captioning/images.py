"""Image files as a processor can take them: 8-bit RGB, neither tiny nor endlessly long."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from ..data.images import ImageError, decode

__all__ = ["ImageError", "load_image"]

#: Smallest side handed to a processor: below it an axis can be mistaken for colour channels.
SMALLEST_SIDE = 8
#: Longest side handed to a processor, in shorter ones. A processor scales the shorter side to
#: hundreds of pixels before it cuts out the middle: of 20,000 x 1 pixels that would take gigabytes.
LONGEST = 64


def load_image(path: str | Path) -> Image.Image:
    """Decode an image file to 8-bit RGB as a viewer would show it (`lib.study.data.images.decode`).

    - An image with a side shorter than 8 pixels (1x1, say) is enlarged to 8 by nearest neighbour.
    - Of an image more than 64 times as long as wide, the middle is kept, 64 times as long as wide:
      more than any processor that cuts out the middle looks at.

    Raises `ImageError`, naming the file, when it is missing, truncated, no image or too large.
    """
    image = _middle(decode(path))
    if min(image.size) < SMALLEST_SIDE:
        size = tuple(max(side, SMALLEST_SIDE) for side in image.size)
        image = image.resize(size, Image.Resampling.NEAREST)
    return image


def _middle(image: Image.Image) -> Image.Image:
    width, height = image.size
    # as much on either side, so that the middle stays the middle
    limit = LONGEST * max(min(image.size), SMALLEST_SIDE)
    across, down = max(width - limit, 0) // 2, max(height - limit, 0) // 2
    return image.crop((across, down, width - across, height - down)) if across or down else image
