"""Images with their references: which of a file's entries are taken, and where their files lie."""

import json
import os
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

__all__ = ["Entry", "Example", "choose", "find", "missing_images", "place", "resolve", "some"]

_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)2014_)?(\d{12})\.jpg")


@dataclass(frozen=True)
class Example:
    """One image and what people wrote about it.

    Attributes:
        image_id: COCO's id (or the data set's own, where there is none); unique in a split.
        path: the image file.
        references: the reference captions, stripped.
        extra: whatever else the data set says about the image, such as a generated scene's
            `objects`.
    """

    image_id: int
    path: Path
    references: tuple[str, ...]
    extra: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Entry:
    """An image as a JSON names it, before anyone looked for the file.

    Raises:
        ValueError: unless folder and name stay inside whatever folder they are put into: plain
            names with "/" between them, on every system.
    """

    image_id: int
    folder: str
    name: str
    references: tuple[str, ...]
    extra: dict[str, Any]

    def __post_init__(self) -> None:
        for path in (self.name, self.relative):
            if problem := _outside(path):
                raise ValueError(f"the file name {json.dumps(path)} {problem}")

    @property
    def relative(self) -> str:
        return f"{self.folder}/{self.name}" if self.folder else self.name


def _outside(path: str) -> str | None:
    """Why a path from a file could leave the folder it is put into, None if it cannot."""
    if path.startswith("/"):
        return "is absolute"
    if re.match("[A-Za-z]:", path):
        return "starts with a drive letter"
    if "\\" in path or any(ord(character) < 32 for character in path):
        return "holds a backslash or a control character"
    if ".." in PurePosixPath(path).parts:
        return "leads out of its folder"
    return None if PurePosixPath(path).name else "names no file"


def choose(entries: list[Entry], limit: int | None, random_state: int) -> list[Entry]:
    """At most `limit` entries, drawn with `random_state`, in the order given.

    A larger limit with the same seed contains the smaller one's entries.
    """
    if limit is None:
        return entries
    if limit < 1:
        raise ValueError(f"limit must be at least 1 (or None for all), got {limit}")
    order = list(range(len(entries)))
    random.Random(random_state).shuffle(order)  # a prefix of one shuffle: larger limits only add
    return [entries[i] for i in sorted(order[:limit])]


#: how to get images that are not there, unless a data set has its own words
REMEDY = (
    "For COCO, `make data PROFILE=paper` downloads what is missing, and COCO_ROOT may name "
    "a folder that holds val2014/ and train2014/ (or val2017/ and train2017/)."
)


def resolve(
    entries: Sequence[Entry], root: Path, check_files: bool, *, remedy: str = REMEDY
) -> list[Example]:
    """The entries with their files below `root`; `remedy` says how to get what is missing.

    Raises:
        FileNotFoundError: if `check_files` and images are missing; the first five are named.
        ValueError: if a file lies outside `root`, behind a symbolic link.
    """
    examples, missing = [], []
    for entry in entries:
        found = find(root, entry)
        if found is None:
            missing.append(entry.relative)
        path = found or root / entry.relative
        examples.append(Example(entry.image_id, path, entry.references, entry.extra))
    if missing and check_files:
        raise FileNotFoundError(
            f"{len(missing)} of {len(entries)} images are missing below {root}: {some(missing)}. "
            f"{remedy}"
        )
    return examples


def find(root: Path, entry: Entry) -> Path | None:
    """The entry's file below `root`, in whichever of COCO's layouts it lies; None if absent."""
    names = [entry.relative, entry.name]
    if match := _COCO_NAME.fullmatch(entry.name):
        number = match.group(1)
        names += [f"{part}2014/COCO_{part}2014_{number}.jpg" for part in ("val", "train")]
        names += [f"{part}2017/{number}.jpg" for part in ("val", "train")]
    for name in names:
        for path in (root / name, root / "images" / name):
            if _present(path):
                return _within(root, path)
    return None


def place(root: Path, entry: Entry) -> Path:
    """Where the entry's file goes below `root`, there or not; ValueError if that is outside."""
    return _within(root, root / entry.relative)


def missing_images(examples: Iterable[Example]) -> list[Example]:
    """The examples whose image file is not there (or empty)."""
    return [e for e in examples if not _present(e.path)]


def _within(root: Path, path: Path) -> Path:
    """`path`, unless a symbolic link on the way leads out of `root` (which may itself be one)."""
    inside, real = os.path.realpath(root), os.path.realpath(path)
    if os.path.commonpath([inside, real]) != inside:
        raise ValueError(
            f"{path} leads out of its folder, to {real}: a symbolic link. Name the folder that "
            "holds the images itself (image_root, or COCO_ROOT for COCO)."
        )
    return path


def _present(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def some(names: Sequence[str]) -> str:
    """The first five of many names."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
