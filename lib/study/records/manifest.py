"""A results folder's manifest: the parameters of its records, and one entry a run."""

from __future__ import annotations

import datetime
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import locked, write_atomically
from .canonical import plain
from .jsonl import record_paths

MANIFEST = "manifest.json"
#: entries of a run that are noted but change no result at all
HARMLESS = {"started", "processes", "throughput"}


class ManifestMismatch(ValueError):
    """Results made with other parameters are in the way."""


class Manifest:
    """`manifest.json` of a results folder: the parameters, and one entry a run.

    Raises `ManifestMismatch` when the folder's parameters are not the ones given, listing every
    key that differs, and when the folder holds records but no manifest.
    """

    def __init__(self, folder: str | Path, parameters: Mapping[str, Any]) -> None:
        self.path = Path(folder) / MANIFEST
        self.parameters: dict[str, Any] = plain(parameters)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.path.parent):
            if not self.path.exists():
                orphans = record_paths(self.path.parent)
                if any(path.stat().st_size for path in orphans):
                    raise ManifestMismatch(
                        f"{orphans[0]} holds records but {self.path} is missing, so nobody can say "
                        f"which settings made them. Restore the manifest, or delete the folder."
                    )
                self._write({"parameters": self.parameters, "runs": []})
            lines = differences(self.read()["parameters"], self.parameters)
        if lines:
            raise ManifestMismatch(_refusal(self.path, lines))

    def read(self) -> dict[str, Any]:
        """The stored document, `{"parameters": {...}, "runs": [...]}`."""
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            return {"parameters": document["parameters"], "runs": list(document["runs"])}
        except (ValueError, KeyError, TypeError) as error:
            raise ManifestMismatch(
                f"{self.path} is not a manifest ({error}). Restore it, or delete {self.path.parent}"
                " to start again."
            ) from error

    def add_run(self, run: Mapping[str, Any], *, continues: bool) -> None:
        """Note a run that is about to add records; warn when it differs from the one before it."""
        entry = plain(run, "environment")
        with locked(self.path.parent):
            document = self.read()
            earlier = document["runs"][-1] if document["runs"] else None
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            document["runs"].append({"started": now, **entry})
            self._write(document)
        if continues and earlier is not None:
            before, after = (
                {key: value for key, value in one.items() if key not in HARMLESS}
                for one in (earlier, entry)
            )
            if lines := differences(before, after):
                warnings.warn(
                    f"{self.path.parent}: continuing records made in another environment, which "
                    f"may change captions by rounding: {'; '.join(lines)}",
                    stacklevel=3,
                )

    def note(self, name: str, key: str, value: Any) -> None:
        """Add `{name: {key: value}}` to the latest run, which is there if anything was recorded."""
        with locked(self.path.parent):
            document = self.read()
            if document["runs"]:
                document["runs"][-1].setdefault(name, {})[key] = plain(value, "note")
                self._write(document)

    def _write(self, document: Mapping[str, Any]) -> None:
        write_atomically(self.path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def method_places(folder: Path) -> dict[str, int]:
    """`{slug: place}` of the methods, where a record's lists hold a value of each.

    The order is the manifest's. Raises `FileNotFoundError` where there is none.
    """
    document = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return {slug: place for place, slug in enumerate(document["parameters"]["methods"])}


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        flat: dict[str, Any] = {}
        for key, item in value.items():
            flat.update(_flatten(item, f"{prefix}.{key}" if prefix else key))
        return flat
    return {prefix: value}


_ABSENT = object()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line a differing key, nested keys dotted, `old -> new`.

    >>> differences({"keep": 0.5, "model": {"name": "a"}}, {"keep": 0.25, "model": {"name": "a"}})
    ['keep: 0.5 -> 0.25']
    """
    before, after = _flatten(plain(old)), _flatten(plain(new))

    def show(value: Any) -> str:
        return "(absent)" if value is _ABSENT else json.dumps(value, ensure_ascii=False)

    pairs = {
        key: (before.get(key, _ABSENT), after.get(key, _ABSENT))
        for key in sorted(before.keys() | after.keys())
    }
    return [f"{key}: {show(a)} -> {show(b)}" for key, (a, b) in pairs.items() if a != b]


def _refusal(path: Path, lines: Sequence[str]) -> str:
    listed = "\n".join(f"  {line}" for line in lines)
    return (
        f"{path} was made with other parameters (stored -> asked):\n{listed}\n"
        f"Choose another results folder, or delete {path.parent} to start again."
    )
