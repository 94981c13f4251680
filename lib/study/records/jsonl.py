"""Append-only files of records, one JSON object a line; what is published is compressed."""

from __future__ import annotations

import json
import lzma
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import fcntl, naming, sync_folder
from .canonical import Record, plain

RECORDS = "records.jsonl"
PUBLISHED = RECORDS + ".xz"
SHARD = re.compile(r"records\.rank-\d{4,}-of-\d{4,}\.jsonl")


class RecordFile:
    """An append-only JSONL file with one writer.

    Opening it cuts off a torn last line. `records` are those on disk, in order. Raises
    RuntimeError when another process is writing the same file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._lock()
            self.records, whole = parse(self.path)
            if os.fstat(self._descriptor).st_size != whole:
                os.ftruncate(self._descriptor, whole)
                os.fsync(self._descriptor)
        except BaseException:
            self.close()
            raise
        if new:
            sync_folder(self.path.parent)

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                f"{self.path} is being written by another process. Wait for it, or choose another "
                "results folder."
            ) from None
        except OSError:
            pass  # a file system without locks

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append records in one write and sync them to disk before returning."""
        batch = [plain(record, "record") for record in records]
        data = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in batch).encode()
        view = memoryview(data)
        with naming(self.path):
            while view:  # a write may be partial on a full pipe or disk; a full disk raises
                view = view[os.write(self._descriptor, view) :]
            os.fsync(self._descriptor)
        self.records.extend(batch)

    def close(self) -> None:
        """Release the file. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def parse(path: Path) -> tuple[list[Record], int]:
    """Whole records of a file and the number of bytes they take; a torn tail is left out.

    Raises ValueError naming file and line for damage that no kill explains.
    """
    data = path.read_bytes()
    if path.suffix == ".xz":
        data = _unpacked(path, data)
    whole = data.rfind(b"\n") + 1
    lines = data[:whole].split(b"\n")[:-1]
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line.decode("utf-8"))
            if not isinstance(record, dict):
                raise ValueError("not a JSON object")
        except ValueError as error:
            if number == len(lines):  # a crash of the machine may pad the tail with anything
                return records, whole - len(line) - 1
            raise ValueError(
                f"{path}, line {number}: damaged record ({error}). Delete that line to compute "
                "it again."
            ) from error
        records.append(record)
    if path.suffix == ".xz" and len(records) == 1 and records[0].keys() == {"columns", "wide"}:
        records = _by_rows(records[0])
    return records, whole


def packed(text: str) -> bytes:
    """A text as published files hold it: the same bytes for the same text."""
    # a text's bytes are aligned to nothing, which LZMA else looks for
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "pb": 0}]
    return lzma.compress(text.encode("utf-8"), filters=filters)


def packed_records(records: Sequence[Mapping[str, Any]]) -> bytes:
    """Records as `PUBLISHED` holds them, by columns: like values next to like are smaller.

    A list in every record, all of one length, is a column for each of its places. Records of
    different keys stay lines. `parse` gives the records back.

    Raises TypeError or ValueError for what is no plain JSON.
    """
    rows = [plain(record, "record") for record in records]
    if rows and all(list(row) == list(rows[0]) for row in rows):
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        wide = [name for name, values in columns.items() if _is_table(values)]
        for name in wide:
            columns[name] = [list(column) for column in zip(*columns[name])]
        rows = [{"columns": columns, "wide": wide}]
    lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    return packed("".join(line + "\n" for line in lines))


def _is_table(values: Sequence[Any]) -> bool:
    return (
        all(isinstance(value, list) and value for value in values)
        and len({len(value) for value in values}) == 1
    )


def _by_rows(document: Mapping[str, Any]) -> list[Record]:
    """What `packed_records` put into columns."""
    columns = dict(document["columns"])
    for name in document["wide"]:
        columns[name] = [list(row) for row in zip(*columns[name], strict=True)]
    return [dict(zip(columns, row)) for row in zip(*columns.values(), strict=True)]


def _unpacked(path: Path, data: bytes) -> bytes:
    try:
        return lzma.decompress(data)
    except (EOFError, lzma.LZMAError) as error:
        raise ValueError(
            f"{path}: damaged ({error}). Restore it, or delete it to compute it again."
        ) from error


def record_paths(folder: Path) -> list[Path]:
    """The merged file first, then what is published, then shards of distributed runs by name."""
    shards = sorted(path for path in folder.glob("records.rank-*") if SHARD.fullmatch(path.name))
    whole = [folder / RECORDS, folder / PUBLISHED]
    return [path for path in whole if path.exists()] + shards
