"""The records of one method in their folder, while one process writes them or several."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import locked, write_atomically
from .canonical import Record, canonical
from .jsonl import RECORDS, RecordFile, parse, record_paths
from .manifest import Manifest


def _read_folder(folder: Path, key: str) -> dict[Any, Record]:
    found: dict[Any, Record] = {}
    origin: dict[Any, Path] = {}
    for path in record_paths(folder):
        for record in parse(path)[0]:
            if key not in record:
                raise ValueError(f"{path}: a record has no {key!r}: {record!r}")
            name = record[key]
            # A kill between the merge and the removal of its shards leaves equal copies.
            if name in found and canonical([found[name]]) != canonical([record]):
                raise ValueError(
                    f"{key} {name!r} has two different records, in {origin[name]} and {path}. "
                    "Delete one of them."
                )
            found.setdefault(name, record)
            origin.setdefault(name, path)
    return found


def read_records(path: str | Path, *, key: str = "image_id") -> list[Record]:
    """All records of a JSONL file, or of a results folder with or without shards.

    Shards that are not merged yet follow the merged file in the order of their names.

    Raises FileNotFoundError when there are none, ValueError for damage or contradictions.
    """
    path = Path(path)
    if path.is_dir():
        if not record_paths(path):
            raise FileNotFoundError(f"{path} holds no {RECORDS}")
        with locked(path):
            return list(_read_folder(path, key).values())
    if not path.exists():
        raise FileNotFoundError(f"record file {path} is missing")
    return parse(path)[0]


class RecordFolder:
    """The records of one method: `manifest.json`, `records.jsonl`, and shards while ranks write.

    One process appends to `records.jsonl`; of several, rank r of w appends to
    `records.rank-<r>-of-<w>.jsonl`. `done` maps the key of every record on disk (of all shards,
    whatever the number of ranks that wrote them) to the record, so a rerun can do what is missing.
    `finish` merges the shards once all of them together are complete.

    Raises `ManifestMismatch` when the folder was made with other parameters.
    """

    def __init__(
        self,
        folder: str | Path,
        parameters: Mapping[str, Any],
        *,
        run: Mapping[str, Any] | None = None,
        rank: int = 0,
        world_size: int = 1,
        key: str = "image_id",
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in 0..{world_size - 1}, got {rank}")
        self.folder = Path(folder)
        self.key = key
        self.manifest = Manifest(folder, parameters)
        self._run = dict(run or {})
        self._notes_run = rank == 0
        name = f"records.rank-{rank:04d}-of-{world_size:04d}.jsonl" if world_size > 1 else RECORDS
        self.path = self.folder / name
        self._file: RecordFile | None = None
        with locked(self.folder):
            self.done = _read_folder(self.folder, key)

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append the records of a batch in one synced write; those already done are left out."""
        fresh = [record for record in records if record[self.key] not in self.done]
        if not fresh:
            return
        if self._file is None:
            self._file = RecordFile(self.path)
            if self._notes_run:
                self.manifest.add_run(self._run, continues=bool(self.done))
        self._file.append(fresh)
        self.done.update((record[self.key], dict(record)) for record in fresh)

    def finish(self, order: Sequence[Any]) -> list[Record]:
        """Records on disk in the given order of keys; merges the shards if none is missing.

        Every rank may call it, in any order: the one that completes the set does the merge.
        """
        self.close()
        with locked(self.folder):
            self.done = found = _read_folder(self.folder, self.key)
            merged = [found[name] for name in order if name in found]
            if unknown := sorted(found.keys() - set(order), key=str):
                raise ValueError(
                    f"{self.folder} holds records that were not asked for: {self.key} "
                    f"{', '.join(map(str, unknown[:10]))}. Delete the folder to start again."
                )
            shards = [path for path in record_paths(self.folder) if path.name != RECORDS]
            if len(merged) == len(order) and (shards or list(found) != list(order)):
                text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in merged)
                write_atomically(self.folder / RECORDS, text)
                for path in shards:
                    path.unlink()
        return merged

    def close(self) -> None:
        """Release the file. Safe to call twice."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> RecordFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
