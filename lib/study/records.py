"""Results on disk: append-only records, a manifest beside them, load-or-compute.

A *record* is one JSON object a line, one line an image. Each batch is appended in one write and
synced, so a kill at any moment loses the batch in flight at most; a torn last line is cut off when
the file is opened again. A *manifest* (`manifest.json`, written atomically) holds

- `parameters`: everything that determines a record (prompt, method and its options, seeds, model,
  weights, images). Records of other parameters are never mixed in: opening them refuses and says
  what differs.
- `runs`: what may differ between the runs that filled one file (library versions, device, batch
  size, number of processes), one entry a run. These change a result by rounding only, so a
  difference is noted, and a warning says so when an unfinished file is continued.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__

try:
    import fcntl
except ImportError:  # Windows: no advisory locks; two writers of one file then go unnoticed
    fcntl = None

__all__ = [
    "Manifest",
    "ManifestMismatch",
    "RecordFile",
    "RecordFolder",
    "canonical",
    "digest",
    "environment",
    "load_or_compute",
    "read_records",
    "write_atomically",
]

MANIFEST = "manifest.json"
#: entries of a run that are noted but change no result at all
HARMLESS = {"started", "processes", "throughput"}
RECORDS = "records.jsonl"
SHARD = re.compile(r"records\.rank-\d{4,}-of-\d{4,}\.jsonl")

Record = dict[str, Any]


class ManifestMismatch(ValueError):
    """Results made with other parameters are in the way."""


# ---------------------------------------------------------------------------- small tools


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
    text = json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def environment(**extra: Any) -> dict[str, Any]:
    """What a run was made with: library versions, platform, and the caller's own entries."""
    versions = {"python": platform.python_version(), "entropy-prune": __version__}
    for name in ("torch", "transformers", "numpy", "pycocoevalcap"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"versions": versions, "platform": f"{platform.system()} {platform.machine()}", **extra}


def write_atomically(path: str | Path, text: str) -> None:
    """Write a text file so that a kill leaves the old content or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename or a new file durable; some file systems cannot, and that is all right."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder for one process at a time; the lock dies with its holder, leaving no file."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _plain(value: Any, name: str = "parameters") -> Any:
    """The value as JSON would give it back; refuses what JSON cannot hold."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"{name} must be finite numbers, got {value!r}")
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return _plain(value.item(), name)
    if type(value).__module__ == "torch" and type(value).__name__ in ("dtype", "device"):
        return str(value).removeprefix("torch.")
    raise TypeError(f"{name} must be plain JSON, got a {type(value).__name__}: {value!r}")


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
    before, after = _flatten(_plain(old)), _flatten(_plain(new))

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


# ---------------------------------------------------------------------------- manifest


class Manifest:
    """`manifest.json` of a results folder: the parameters, and one entry a run.

    Raises `ManifestMismatch` when the folder's parameters are not the ones given, listing every
    key that differs, and when the folder holds records but no manifest.
    """

    def __init__(self, folder: str | Path, parameters: Mapping[str, Any]) -> None:
        self.path = Path(folder) / MANIFEST
        self.parameters: dict[str, Any] = _plain(parameters)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.path.parent):
            if not self.path.exists():
                orphans = _record_paths(self.path.parent)
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
        entry = _plain(run, "environment")
        with _locked(self.path.parent):
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
        with _locked(self.path.parent):
            document = self.read()
            if document["runs"]:
                document["runs"][-1].setdefault(name, {})[key] = _plain(value, "note")
                self._write(document)

    def _write(self, document: Mapping[str, Any]) -> None:
        write_atomically(self.path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


# ---------------------------------------------------------------------------- record files


def _parse(path: Path) -> tuple[list[Record], int]:
    """Whole records of a file and the number of bytes they take; a torn tail is left out.

    Raises ValueError naming file and line for damage that no kill explains.
    """
    data = path.read_bytes()
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
    return records, whole


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
            self.records, whole = _parse(self.path)
            if os.fstat(self._descriptor).st_size != whole:
                os.ftruncate(self._descriptor, whole)
                os.fsync(self._descriptor)
        except BaseException:
            self.close()
            raise
        if new:
            _sync_folder(self.path.parent)

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
        batch = [_plain(record, "record") for record in records]
        data = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in batch).encode()
        view = memoryview(data)
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


def _record_paths(folder: Path) -> list[Path]:
    """The merged file first, then the shards of distributed runs by name."""
    shards = sorted(path for path in folder.glob("records.rank-*") if SHARD.fullmatch(path.name))
    merged = folder / RECORDS
    return ([merged] if merged.exists() else []) + shards


def _read_folder(folder: Path, key: str) -> dict[Any, Record]:
    found: dict[Any, Record] = {}
    origin: dict[Any, Path] = {}
    for path in _record_paths(folder):
        for record in _parse(path)[0]:
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
        if not _record_paths(path):
            raise FileNotFoundError(f"{path} holds no {RECORDS}")
        with _locked(path):
            return list(_read_folder(path, key).values())
    if not path.exists():
        raise FileNotFoundError(f"record file {path} is missing")
    return _parse(path)[0]


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
        with _locked(self.folder):
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
        with _locked(self.folder):
            self.done = found = _read_folder(self.folder, self.key)
            merged = [found[name] for name in order if name in found]
            if unknown := sorted(found.keys() - set(order), key=str):
                raise ValueError(
                    f"{self.folder} holds records that were not asked for: {self.key} "
                    f"{', '.join(map(str, unknown[:10]))}. Delete the folder to start again."
                )
            shards = [path for path in _record_paths(self.folder) if path.name != RECORDS]
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


# ---------------------------------------------------------------------------- plain results


def load_or_compute(
    path: str | Path,
    parameters: Mapping[str, Any],
    function: Callable[[], Any],
    *,
    recompute: bool = False,
) -> Any:
    """A JSON result, computed once: the file holds the result, its parameters and environment.

    Parameters
    ----------
    path : the JSON file, written atomically.
    parameters : what determines the result, plain JSON.
    function : computes the result, plain JSON, without arguments.
    recompute : replace a result of other parameters instead of refusing.

    Returns
    -------
    The result as JSON gives it back (tuples are lists), whether loaded or just computed.

    Raises
    ------
    ManifestMismatch : the file holds a result of other parameters, or no result.
    """
    path = Path(path)
    asked = _plain(parameters)
    if path.exists():
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            lines = differences(document["parameters"], asked)
            if not lines:
                return document["result"]
            message = (
                f"{path} was made with other parameters (stored -> asked):\n"
                + "\n".join(f"  {line}" for line in lines)
                + f"\nChoose another path, or delete {path} to compute it again."
            )
        except (ValueError, KeyError, TypeError) as error:
            message = f"{path} is not a stored result ({error!r}). Delete it to compute it again."
        if not recompute:
            raise ManifestMismatch(message)
    result = _plain(function(), "result")
    document = {"parameters": asked, "environment": environment(), "result": result}
    write_atomically(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return result
