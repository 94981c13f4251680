"""Image files to 8-bit RGB as a viewer would show them, within bounded memory.

orientation   the one entry of EXIF or XMP that decides anything
containers    opening a file, if need be without its metadata, and how large it may be
pixels        depth, transparency and colour to 8-bit RGB
"""

from .containers import ImageError, Opened, open_image
from .pixels import decode

__all__ = ["ImageError", "Opened", "decode", "open_image"]
