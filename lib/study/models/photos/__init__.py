"""The model of the profile `photos`: SmolLM2-135M behind a small CLIP tower of this project.

Three parts make it. The language model comes from a wheel on the package index and is never
committed; it stays as published but for low-rank adapters. The tower, the projector and the
adapters are this project's (``data/photos``). `assembled` puts the parts together once and keeps
the result as an ordinary Hugging Face folder.
"""

from .architecture import CHAT_TEMPLATE, VISION, build, image_tokenizer, photo_processor, read_gguf
from .assembly import NAMES, assemble, assembled, load_tower, merge, photos_dir, save
from .publishing import publish
from .weights import quantise, restore
from .wheel import PACKAGE, VERSION, WHEEL_BYTES, language_file, language_here

__all__ = [
    "CHAT_TEMPLATE",
    "NAMES",
    "PACKAGE",
    "VERSION",
    "VISION",
    "WHEEL_BYTES",
    "assemble",
    "assembled",
    "build",
    "image_tokenizer",
    "language_file",
    "language_here",
    "load_tower",
    "merge",
    "photo_processor",
    "photos_dir",
    "publish",
    "quantise",
    "read_gguf",
    "restore",
    "save",
]
