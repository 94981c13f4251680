"""Files are written so that a kill, or a full disk, leaves the old or the new one, never a part."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows: no advisory locks; two writers of one file then go unnoticed
    fcntl = None

__all__ = ["entry", "locked", "naming", "sync_folder", "write_atomically", "write_json"]


def write_atomically(
    path: str | Path, content: str | bytes | Callable[[IO[bytes]], object], *, durable: bool = True
) -> None:
    """Write a file whole or not at all; text as UTF-8 with newlines as they are.

    content: or what writes it into an open binary file, where it is large or of another format.
    Not `durable`: without waiting for the disk, for what can be made again in no time.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    if isinstance(content, str):
        content = content.encode()
    try:
        with naming(path):
            with open(temporary, "wb") as file:
                if callable(content):
                    content(file)
                else:
                    file.write(content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)


def write_json(path: str | Path, document: Any) -> None:
    """A JSON document, whole or not at all; what holds nothing nested is one line of it."""
    write_atomically(path, _lines(document) + "\n")


def entry(path: Path, name: str) -> Any:
    """An entry of a stored JSON object; None where it, or a whole file, is missing."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))[name]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _lines(value: Any, depth: int = 0) -> str:
    items = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list | tuple) or not any(
        isinstance(item, dict | list | tuple) for item in items
    ):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    ahead, last = "\n" + " " * (depth + 1), "\n" + " " * depth
    parts = [_lines(item, depth + 1) for item in items]
    if isinstance(value, dict):
        names = json.loads(json.dumps(dict.fromkeys(value)))  # keys as JSON has them
        parts = [f"{json.dumps(k, ensure_ascii=False)}:{part}" for k, part in zip(names, parts)]
        return "{" + ahead + f",{ahead}".join(parts) + last + "}"
    return "[" + ahead + f",{ahead}".join(parts) + last + "]"


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the system inside the block name the file: a full disk does not by itself."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None
        raise


def sync_folder(folder: Path) -> None:
    """Make a rename or a new file durable; some file systems cannot, and that is all right."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
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
