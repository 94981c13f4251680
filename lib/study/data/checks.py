"""What comes from a file has no type until it is checked.

Every error here is a `ValueError` that names the file, and the image where there is one.
"""

import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from .examples import Entry, some

T = TypeVar("T")


#: how to get what is not there, unless a data set has its own words
REMEDY = (
    "`make data PROFILE=paper` downloads Karpathy's split; "
    "COCO's own captions are at https://cocodataset.org/#download."
)


def load_json(path: Path, remedy: str = REMEDY) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. {remedy}")
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}). Delete it and fetch it again."
        ) from None
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        raise ValueError(f"{path} has no list `images`: neither Karpathy's layout nor COCO's")
    return document


def objects(document: dict, key: str, path: Path) -> list[dict]:
    """A list of objects; ValueError if it is anything else."""
    items = document.get(key)
    if not isinstance(items, list):
        raise ValueError(f"{path}: `{key}` is {short(items)}, not a list")
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            raise ValueError(f"{path}: `{key}` holds {short(item)} at {number}, not an object")
    return items


def value_of(item: dict, key: str, kind: type) -> Any:
    """The value of a key, None where it is absent or null; ValueError if it has another type."""
    value = item.get(key)
    if value is None:
        return None
    if not isinstance(value, kind) or isinstance(value, bool):
        expected = {str: "text", int: "a whole number", list: "a list"}[kind]
        raise ValueError(f"`{key}` is {short(value)}, not {expected}")
    if kind is int and not -(2**63) <= value < 2**63:
        raise ValueError(f"`{key}` is {short(value)}, beyond 64 bits")
    return value


def entry_of(
    image_id: int, folder: str, name: str, captions: Sequence[str], extra: dict[str, Any]
) -> Entry:
    """An entry whose texts can be written; ValueError for half a character, as "\\ud83d" is."""
    said = json.dumps(extra, ensure_ascii=False) if extra else ""
    for text in (folder, name, *captions, said):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"half a character (a lone surrogate) in {short(text)}") from None
    return Entry(image_id, folder, name, tuple(captions), extra)


def each(items: Iterable[dict], make: Callable[[dict], T], path: Path) -> list[T]:
    """`make` of every item; what it complains about is said of the file and the image."""
    made = []
    for item in items:
        try:
            made.append(make(item))
        except ValueError as error:
            raise ValueError(f"{path}: {_title(item)}: {error}") from None
    return made


def complete(entries: Sequence[Entry], path: Path) -> list[Entry]:
    """Every image has a reference and an id of its own; blank captions are dropped aloud."""
    repeated = [i for i, n in Counter(entry.image_id for entry in entries).items() if n > 1]
    if repeated:
        raise ValueError(f"{path}: image id {repeated[0]} occurs more than once in the split")
    result, blank, bare = [], [], []
    for entry in entries:
        references = tuple(text.strip() for text in entry.references if text.strip())
        if not references:
            bare.append(entry.relative)
        elif len(references) < len(entry.references):
            blank.append(entry.relative)
        result.append(replace(entry, references=references))
    if bare:
        raise ValueError(f"{path}: no reference captions for {some(bare)}")
    if blank:
        warnings.warn(f"{path}: dropped blank captions of {some(blank)}", stacklevel=4)
    return result


def _title(item: dict) -> str:
    """What names an image or an annotation best."""
    for key in ("filename", "file_name", "cocoid", "imgid", "image_id", "id"):
        if isinstance(item.get(key), str | int):
            return f"{key} {short(item[key])}"
    return short(item)


def short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."
