"""Downloading a data set's list and exactly the images of a split, whichever data set it is."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from filelock import FileLock, Timeout

from .examples import REMEDY, Entry, Example, choose, find, place, resolve
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

__all__ = ["Archive", "Source", "check_image", "download"]

_LICENCE_FILE = "LICENCE.txt"


class Archive(NamedTuple):
    """A zip whose `member` lists the images: where it is, its checksum in pooch's notation (None
    accepts any that holds a readable list), its size and that of the list unpacked, in bytes."""

    url: str
    known_hash: str | None
    member: str
    size: int
    unpacked: int


def check_image(path: Path) -> None:
    """Decode a whole image.

    Raises:
        InvalidContentError: if it is not one, or not all of one.
    """
    try:
        open_image(path)
    except ImageError as error:
        raise InvalidContentError(f"not a readable image ({error.reason or error})") from error


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set as it is published, and where it lies here.

    archive: holds the list of its images. images_url: the folder they are in, by their names.
    image_bytes: mean size of one. split_sizes: images of each split. licence: what is printed, and
    kept beside the data, before anything is fetched. listing, folder: where the list and the images
    are, or go. entries: those of a split, from the list. check: of an image that arrived. remedy:
    how to get images that are missing.
    """

    archive: Archive
    images_url: str
    image_bytes: int
    split_sizes: Mapping[str, int]
    licence: str
    listing: Callable[[], Path]
    folder: Callable[[], Path]
    entries: Callable[[Path, str], list[Entry]]
    check: Callable[[Path], None] = check_image
    remedy: str = REMEDY


def download(
    source: Source,
    split: str = "test",
    *,
    image_root: str | Path | None = None,
    json_path: str | Path | None = None,
    limit: int | None = None,
    random_state: int = 0,
    workers: int = 8,
    recheck: bool = False,
    progress: bool = True,
    client: Client | None = None,
) -> list[Example]:
    """Download the list of a data set and exactly the images that its reader would return.

    Everything is resumable: a second call fetches only what is missing, and a file has its final
    name only once it is whole and decodes. Images already in `image_root` are used where they lie.

    Args:
        split, limit, random_state: as in `lib.study.data.captions.read_karpathy`.
        image_root, json_path: where images and list are and go, by default the source's places.
        workers: transfers at a time.
        recheck: check the images that are already there, too, and replace broken ones.
        client: how to retry and wait, by default `Client()`.

    Raises:
        DownloadError: one message saying what is missing and how to resume.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    root = source.folder() if image_root is None else Path(image_root).expanduser()
    listing = source.listing() if json_path is None else Path(json_path).expanduser()
    client = client or Client(connections=workers)
    if not listing.exists():
        with _only_one(listing.parent):
            if not listing.exists():
                _note_licence(listing.parent, source.licence)
                _download_list(client, listing, source.archive, progress)
    entries = choose(source.entries(listing, split), limit, random_state)
    if _wanted(entries, root, recheck, source.check):
        with _only_one(root):
            # another process may have worked
            wanted = _wanted(entries, root, recheck, source.check)
            if not (listing.parent / _LICENCE_FILE).exists():
                _note_licence(root, source.licence)
            require_space(root, 1.1 * source.image_bytes * len(wanted))
            base = source.images_url.rstrip("/")
            jobs = [Job(f"{base}/{quote(each.relative)}", place(root, each)) for each in wanted]
            fetch_many(client, jobs, workers=workers, check=source.check, progress=progress)
    return resolve(entries, root, check_files=True, remedy=source.remedy)


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
