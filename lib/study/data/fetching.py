"""Downloading exactly the images of a split, and the list of them: what data sets have in common.

Everything is resumable: a second call fetches only what is missing, and a file has its final name
only once it is whole and decodes.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from .examples import Entry, find, place
from .http import (
    Client,
    DownloadError,
    InvalidContentError,
    Job,
    extract,
    fetch_archive,
    fetch_many,
    require_space,
)
from .images import ImageError, open_image

__all__ = ["Archive", "check_image", "fetch_split"]

_LICENCE_FILE = "LICENCE.txt"


class Archive(NamedTuple):
    """A zip whose `member` lists the images: where it is, its checksum in pooch's notation (None
    accepts any that holds a readable list), its size and that of the list unpacked, in bytes."""

    url: str
    known_hash: str | None
    member: str
    size: int
    unpacked: int


def fetch_split(
    entries_of: Callable[[], list[Entry]],
    json_path: Path,
    image_root: Path,
    *,
    archive: Archive,
    address: Callable[[Entry], str],
    image_bytes: int,
    licence: str,
    check: Callable[[Path], None] | None = None,
    workers: int = 8,
    recheck: bool = False,
    progress: bool = True,
    client: Client | None = None,
) -> list[Entry]:
    """Get the list where it is missing, then the images of the wanted entries; returns those.

    Args:
        entries_of: the entries wanted, read once `json_path` is there.
        address: the URL of an entry's image.
        image_bytes: mean size of an image.
        licence: what is printed, and kept beside the data, before anything is fetched.
        check: of an image that arrived, by default `check_image`.
        workers, recheck, progress, client: see `lib.study.data.coco.download`.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    client, check = client or Client(connections=workers), check or check_image
    if not json_path.exists():
        with _only_one(json_path.parent):
            if not json_path.exists():
                _note_licence(json_path.parent, licence)
                _download_list(client, json_path, archive, progress)
    entries = entries_of()
    if _wanted(entries, image_root, recheck, check):
        with _only_one(image_root):
            # another process may have worked
            wanted = _wanted(entries, image_root, recheck, check)
            if not (json_path.parent / _LICENCE_FILE).exists():
                _note_licence(image_root, licence)
            require_space(image_root, 1.1 * image_bytes * len(wanted))
            jobs = [Job(address(entry), place(image_root, entry)) for entry in wanted]
            fetch_many(client, jobs, workers=workers, check=check, progress=progress)
    return entries


def check_image(path: Path) -> None:
    """Decode a whole image.

    Raises:
        InvalidContentError: if it is not one, or not all of one.
    """
    try:
        open_image(path)
    except ImageError as error:
        raise InvalidContentError(f"not a readable image ({error.reason or error})") from error


def _download_list(client: Client, json_path: Path, archive: Archive, progress: bool) -> None:
    """Fetch the archive and keep the one list (the others are of other data sets)."""
    require_space(json_path.parent, archive.size + archive.unpacked)
    path = json_path.with_name("caption_datasets.zip")
    fetch_archive(client, archive.url, path, known_hash=archive.known_hash, progress=progress)
    try:
        extract(path, {archive.member: json_path})
    finally:
        path.unlink(missing_ok=True)  # unpacked, or damaged: either way of no further use


def _wanted(
    entries: Sequence[Entry], root: Path, recheck: bool, check: Callable[[Path], None]
) -> list[Entry]:
    """The entries whose image is not there, or (if `recheck`) not as it should be."""

    def right(entry: Entry) -> bool:
        found = find(root, entry)
        if found is not None and recheck:
            try:
                check(found)
            except InvalidContentError:
                return False
        return found is not None

    return [entry for entry in entries if not right(entry)]


def _only_one(folder: Path) -> FileLock:
    """One download a folder: a second process waits, then finds everything in place."""
    lock = FileLock(folder / ".download.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        lock.release()
    except Timeout:
        print(f"waiting for another download into {folder}", file=sys.stderr)
    except OSError as error:
        raise DownloadError(f"cannot write to {folder}: {error.strerror or error}") from error
    return lock


def _note_licence(folder: Path, licence: str) -> None:
    note = folder / _LICENCE_FILE
    if not note.exists():
        print(licence, end="", file=sys.stderr)
        note.write_text(licence, encoding="utf-8")
