"""What two runs of the same settings share, and a fingerprint of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def is_timing(key: str) -> bool:
    """Whether a record's key holds a time: `seconds`, or a name ending in `_seconds`."""
    return key == "seconds" or key.endswith("_seconds")


def canonical(records: Iterable[Mapping[str, Any]]) -> list[Record]:
    """The records without their timings: what two runs of the same settings must share.

    >>> canonical([{"image_id": 1, "caption": "a dog", "seconds": 0.2}])
    [{'image_id': 1, 'caption': 'a dog'}]
    """
    return [{k: v for k, v in record.items() if not is_timing(k)} for record in records]


def digest(value: Any) -> str:
    """SHA-256 (hex) of a value's canonical JSON.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def plain(value: Any, name: str = "parameters") -> Any:
    """The value as JSON would give it back; refuses what JSON cannot hold."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"{name} must be finite numbers, got {value!r}")
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{name}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return plain(value.item(), name)
    if type(value).__module__ == "torch" and type(value).__name__ in ("dtype", "device"):
        return str(value).removeprefix("torch.")
    raise TypeError(f"{name} must be plain JSON, got a {type(value).__name__}: {value!r}")
