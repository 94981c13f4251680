"""Opening an image file: if need be without its metadata, and never more of it than memory allows.

Pillow reads metadata as it opens a file, and some of them stop it although the pixels are sound.
Such a file is opened a second time with nothing but what decides about pixels.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, UnidentifiedImageError

__all__ = ["LARGEST", "MANY", "ImageError", "Opened", "open_image"]

#: bytes that the pixels of one image may take; with what its decoder needs, twice as many
LARGEST = 200_000_000
#: bytes a pixel that a decoder needs for itself (measured with Pillow 13, rounded up)
_WORKING = {"WEBP": 12, "AVIF": 6, "JPEG2000": 16}
#: pixels above which an image is decoded, or reduced, to a smaller size: a model sees far fewer
MANY = 1 << 24
#: the segment of a plain JFIF file: version 1.1, no density, no thumbnail
_JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"


class ImageError(ValueError):
    """An image that cannot be used; the message names the file and says what to do.

    Attributes:
        reason: the cause alone, where a decoder stated one.
    """

    reason: str | None = None


class Opened(NamedTuple):
    """A decoded file.

    Attributes:
        image: its pixels, in the mode that Pillow has for them.
        depth: Pillow's name of how the file stores a pixel, such as "L;4" or "RGB;16B".
        info: metadata that Pillow found.
        low: of a 16-bit RGB image with a transparent colour, the lower bytes of its pixels.
    """

    image: Image.Image
    depth: str
    info: dict[str, Any]
    low: Image.Image | None = None


def open_image(path: str | Path) -> Opened:
    """The decoded first image of a file; very large JPEGs come at a half, quarter or eighth.

    Raises:
        ImageError: naming the file, if it is missing, damaged, no image, or larger than memory
            allows.
    """
    path = Path(path)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise ImageError(f"image file is missing: {path}") from None
    except (OSError, ValueError) as error:  # a folder, no permission, too long a name, ...
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"cannot read image {path}: {reason}.") from None
    with file:
        return _decoded(file, path)


def _decoded(file: io.BufferedReader, path: Path) -> Opened:
    try:
        return _load(file, path)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # given damaged bytes, a decoder may raise anything
        first = error
    file.seek(0)
    pixels = _without_metadata(file)
    if pixels is not None:
        try:
            found, info = pixels
            return _load(io.BytesIO(found), path)._replace(info=info)
        except (ImageError, MemoryError):
            raise
        except Exception:  # the first attempt said more
            pass
    reason = " ".join(str(first).split()) or type(first).__name__
    if isinstance(first, UnidentifiedImageError):
        reason = "no format that is known here"
    error = ImageError(
        f"cannot read image {path}: {reason}. The file is damaged or not an image; replace it."
    )
    error.reason = reason
    raise error from first


def _load(file: Any, path: Path) -> Opened:
    try:
        image = Image.open(file)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is too large: {error}. Scale it down first.") from error
    _bound(image, path)
    depth = str(image.tile[0].args) if image.tile and isinstance(image.tile[0].args, str) else ""
    low = None
    if depth == "RGB;16B" and "transparency" in image.info:
        file.seek(0)
        low = Image.open(file)
        # the same bytes read in the other order: Pillow then keeps the lower one of each pair
        low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]
        low.load()
        file.seek(0)
        image = Image.open(file)
    image.load()
    return Opened(image, depth, dict(image.info), low)


def _bound(image: Image.Image, path: Path) -> None:
    """Have a large JPEG decoded to a smaller size; refuse what would take too much memory."""
    (width, height), working = image.size, _WORKING.get(image.format, 0)
    count = width * height
    if image.format in ("JPEG", "MPO"):
        scale = next((s for s in (1, 2, 4) if count <= MANY * s * s), 8)
        if scale > 1:
            image.draft(image.mode, (width // scale, height // scale))
        if image.info.get("progressive"):
            working = 6  # all coefficients are kept until the last pass
    bytes_a_pixel = 1 if image.mode in ("1", "L", "P") else 2 if image.mode[:4] == "I;16" else 4
    pixels = image.width * image.height * bytes_a_pixel
    if pixels > LARGEST or pixels + working * count > 2 * LARGEST:
        raise ImageError(
            f"{path} is too large: decoding {width} x {height} pixels takes "
            f"{(pixels + working * count) / 1e6:.0f} MB of memory. Scale it down first."
        )


# ---------------------------------------------------------------------------- without metadata


def _without_metadata(file: io.BufferedReader) -> tuple[bytes, dict[str, Any]] | None:
    """A JPEG or PNG reduced to what decides about pixels, and its EXIF and XMP; None for others."""
    start = file.read(8)
    if start[:2] == b"\xff\xd8":
        return _bare_jpeg(start + file.read())
    if start == b"\x89PNG\r\n\x1a\n":
        return _bare_png(start + file.read())
    return None


def _bare_jpeg(data: bytes) -> tuple[bytes, dict[str, Any]]:
    """Without application segments but JFIF's and Adobe's, which tell the colour space."""
    kept, info, at = [data[:2]], {}, 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker == 0xDA:  # the scan: pixels from here on
            break
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        body = data[at + 4 : end]
        if body.startswith(b"Exif\0\0"):
            info.setdefault("exif", body)
        elif body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            info.setdefault("xmp", body)
        elif marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14:
            kept.append(_JFIF)
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or (
            body.startswith(b"Adobe") and len(body) >= 12
        ):
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]]), info


def _bare_png(data: bytes) -> tuple[bytes, dict[str, Any]]:
    """Without ancillary chunks but the transparent colours."""
    kept, info, at = [data[:8]], {}, 8
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if name in (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"):
            kept.append(data[at:end])
        elif name == b"eXIf":
            info["exif"] = data[at + 8 : end - 4]
        at = end
    return b"".join(kept), info
