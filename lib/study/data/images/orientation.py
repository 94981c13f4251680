"""How an image is to be turned: the one entry of its metadata that is read.

Nothing else of EXIF is looked at or written anew: cameras and programs leave odd entries there,
and none of them says anything about the pixels.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Any

from PIL import Image

__all__ = ["TURNS", "exif_orientation", "orientation", "upright"]

#: what undoes each orientation; 1 is upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TAG = 0x0112
#: whole numbers of one, two and four bytes, by TIFF's numbers of types
_NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
_XMP = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|>)\s*([1-8])""")


def upright(image: Image.Image, info: Mapping[str, Any]) -> Image.Image:
    """The image turned as the metadata of its file say."""
    turn = TURNS.get(orientation(info))
    return image if turn is None else image.transpose(turn)


def orientation(info: Mapping[str, Any]) -> int:
    """The orientation, 1 to 8, of what Pillow found in a file: of EXIF, else of XMP, else 1."""
    return exif_orientation(_exif(info)) or _xmp_orientation(info) or 1


def exif_orientation(exif: bytes) -> int | None:
    """The orientation that an EXIF block states, whatever else it holds; None without one.

    The block is a TIFF header and a list of 12-byte entries: tag, type, count, value (TIFF 6.0,
    section 2; Exif 2.32, section 4.6).

    >>> entry = (0x0112).to_bytes(2) + b"\\0\\3" + (1).to_bytes(4) + b"\\0\\6\\0\\0"
    >>> exif_orientation(b"MM\\0*" + (8).to_bytes(4) + b"\\0\\1" + entry)
    6
    """
    body = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(body[:2])
    if order is None or len(body) < 8:
        return None
    (start,) = struct.unpack_from(order + "I", body, 4)
    if start + 2 > len(body):
        return None
    (count,) = struct.unpack_from(order + "H", body, start)
    for at in range(start + 2, min(start + 2 + 12 * count, len(body) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", body, at)
        if tag == _TAG and kind in _NUMBERS:
            (value,) = struct.unpack_from(order + _NUMBERS[kind], body, at + 8)
            return value if 1 <= value <= 8 else None
    return None


def _exif(info: Mapping[str, Any]) -> bytes:
    block = info.get("exif")
    if isinstance(block, bytes):
        return block
    text = info.get("Raw profile type exif")  # ImageMagick's older way for PNG: hexadecimal
    try:
        return bytes.fromhex("".join(text.split("\n")[3:])) if isinstance(text, str) else b""
    except ValueError:
        return b""


def _xmp_orientation(info: Mapping[str, Any]) -> int | None:
    packet = info.get("XML:com.adobe.xmp") or info.get("xmp") or b""
    if isinstance(packet, str):
        packet = packet.encode(errors="replace")
    match = _XMP.search(packet) if isinstance(packet, bytes) else None
    return int(match.group(1)) if match else None
