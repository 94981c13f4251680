"""What the name of a model means."""

from __future__ import annotations

from pathlib import Path

from .. import paths
from ..hub import is_hub_name
from .photos import NAMES, assembled
from .shapes import shape_names


def ships(name: str) -> bool:
    """Whether a model's weights ship with the repository, if not all of them."""
    return name == "embedded" or name in NAMES


def shipped_folder(name: str) -> Path | None:
    """The folder of a model that ships with the repository, None for any other name.

    A photograph model is put together on first use, which may download its language model.
    """
    if name in NAMES:
        return assembled(name)
    return paths.embedded_dir() if name == "embedded" else None


def check_name(name: str) -> None:
    """Refuse a name that means nothing.

    Raises FileNotFoundError for what looks like a path, ValueError for anything else.
    """
    known = (
        "'embedded', 'photos', 'photos-dropout', 'shape:llava-1.5-7b', a hub id 'owner/name' or "
        "the path of a folder"
    )
    if ships(name) or Path(name).is_dir() or is_hub_name(name):
        return
    if name.startswith("shape:"):
        if name.removeprefix("shape:") not in shape_names():
            shapes = ", ".join(f"'shape:{shape}'" for shape in shape_names())
            raise ValueError(f"unknown shape {name!r}: known are {shapes}")
        return
    if "/" in name or name.startswith((".", "~")):
        raise FileNotFoundError(f"no model folder at {name!r}: check the path, or use {known}")
    raise ValueError(f"unknown model {name!r}: use {known}")
