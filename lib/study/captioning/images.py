"""Image files to 8-bit RGB, as a viewer would show them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

__all__ = ["ImageError", "load_image"]

#: Smallest side handed to a processor: below it an axis can be mistaken for colour channels.
SMALLEST_SIDE = 8


class ImageError(ValueError):
    """An image that cannot be captioned; the message names the file."""


def load_image(path: str | Path) -> Image.Image:
    """Decode an image file to 8-bit RGB as a viewer would show it.

    - The EXIF orientation is applied.
    - Transparency (RGBA, LA, palettes with a transparent colour) is composited over white.
    - Grey, palette, CMYK and the like are converted to RGB. 16-bit grey is divided by 257, so that
      65535 becomes 255; 32-bit integer grey likewise when it exceeds 255; floating-point grey is
      clipped to 0..255.
    - An image with a side shorter than 8 pixels (1x1, say) is enlarged to 8 by nearest neighbour.

    Raises `ImageError`, naming the file, when it is missing, truncated or no image.
    """
    path = Path(path)
    try:
        with Image.open(path) as file:
            file.load()
            image = ImageOps.exif_transpose(file)
    except FileNotFoundError:
        raise ImageError(f"image file is missing: {path}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(
            f"cannot read image {path}: {error}. The file is damaged or not an image; replace it."
        ) from error
    if image.mode == "F":
        image = image.convert("L")
    elif image.mode.startswith("I"):
        wide = image.mode.startswith("I;16") or image.getextrema()[1] > 255
        image = image.convert("I").point(lambda value: value * (1 / 257 if wide else 1) + 0.5)
        image = image.convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if min(image.size) < SMALLEST_SIDE:
        size = tuple(max(side, SMALLEST_SIDE) for side in image.size)
        image = image.resize(size, Image.Resampling.NEAREST)
    return image
