"""Any depth, transparency and colour to 8-bit RGB."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .containers import MANY, ImageError, Opened, open_image
from .orientation import upright

__all__ = ["decode"]

#: grey of fewer than 8 bits, as Pillow names it: what one step is worth among 256
_STEPS = {"L;2": 85, "L;4": 17, "1": 255}
_STRIP = 1 << 20  # pixels of a large image that are converted at a time


def decode(path: str | Path) -> Image.Image:
    """Decode an image file to 8-bit RGB as a viewer would show it.

    - The orientation is applied, whatever else the metadata hold.
    - Transparency (an alpha channel, a palette's, a transparent colour at the depth of the file) is
      composited over white.
    - Grey, palette, CMYK and the like are converted to RGB. 16-bit grey is divided by 257, so that
      65535 becomes 255; 32-bit integer grey likewise when it exceeds 255; floating-point grey is
      clipped to 0..255.
    - An image of more than 16.8 million pixels is reduced by a whole number to fewer.

    Raises:
        ImageError: naming the file, when it is missing, truncated, no image, or so large that
            its pixels would take more than 200 MB (50 million in colour).
    """
    file = open_image(path)
    source, large = _Source.of(file), file.image.width * file.image.height > MANY
    try:
        image = source.reduced() if large else source.rgb()
    except (ValueError, OSError, KeyError) as error:
        raise ImageError(
            f"cannot use image {path}: its pixels are {file.image.mode} ({error}). "
            "Save it as 8-bit RGB."
        ) from error
    return upright(image, file.info)


@dataclass(frozen=True)
class _Source:
    """A decoded image and what its parts share.

    wide: grey of more than 8 bits. key: the transparent colour, as `image` (and `low`) hold it.
    """

    image: Image.Image
    low: Image.Image | None
    wide: bool
    key: int | tuple[int, ...] | None

    @classmethod
    def of(cls, file: Opened) -> _Source:
        image, mode = file.image, file.image.mode
        wide = mode[:4] == "I;16" or (mode == "I" and image.getextrema()[1] > 255)
        key = image.info.get("transparency")
        if isinstance(key, bytes):  # an alpha for each colour of a palette; some write too many
            image.info["transparency"] = key[:256]
        if mode not in ("1", "L", "I;16", "RGB") or isinstance(key, bytes):
            key = None  # an alpha channel or a palette, which Pillow composites right
        elif file.depth in _STEPS and mode == "L" and key is not None:
            key = key * _STEPS[file.depth]
        return cls(image, file.low, wide, key)

    def rgb(self) -> Image.Image:
        """Everything at once."""
        return _rgb(self.image, self.low, self.wide, self.key)

    def reduced(self) -> Image.Image:
        """A large image, strip by strip, to at most `MANY` pixels."""
        width, height = self.image.size
        factor = 2
        while -(-width // factor) * -(-height // factor) > MANY:
            factor += 1
        small = Image.new("RGB", (-(-width // factor), -(-height // factor)))
        rows = max(_STRIP // width // factor, 1) * factor
        for top in range(0, height, rows):
            box = (0, top, width, min(top + rows, height))
            low = self.low and self.low.crop(box)
            part = _rgb(self.image.crop(box), low, self.wide, self.key)
            small.paste(part.reduce(factor), (0, top // factor))
        return small


def _rgb(
    image: Image.Image, low: Image.Image | None, wide: bool, key: int | tuple[int, ...] | None
) -> Image.Image:
    hole = None if key is None else _matches(image, low, key)
    if image.mode == "F":
        image = image.convert("L")
    elif image.mode.startswith("I"):
        image = image.convert("I").point(lambda value: value * (1 / 257 if wide else 1) + 0.5)
        image = image.convert("L")
    elif image.mode == "La":
        image = image.convert("LA")
    if hole is not None:
        image.info.pop("transparency", None)
        image = image.convert("RGB")
        image.paste("white", mask=hole)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _matches(
    image: Image.Image, low: Image.Image | None, key: int | tuple[int, ...]
) -> Image.Image:
    """Where an image shows its transparent colour, as a mask."""
    pixels, colour = np.asarray(image), np.asarray(key)
    if image.mode == "1":
        pixels = pixels * np.uint8(255)
    if low is not None:
        pixels = pixels.astype(np.uint16) << 8 | np.asarray(low)
    same = pixels == colour
    return Image.fromarray(same.all(-1) if same.ndim == 3 else same)
