"""One large file whose checksum is known, and unpacking it safely."""

import functools
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import pooch
from tqdm.auto import tqdm

from ...files import write_atomically
from .client import Client, DownloadError


def fetch_archive(
    client: Client,
    url: str,
    path: Path,
    *,
    known_hash: str | None,
    progress: bool = True,
) -> Path:
    """Download one large file with pooch, continuing what an earlier run left.

    Args:
        known_hash: "sha256:…", "sha1:…" (pooch's notation) or None to accept any content. Without
            a hash nothing is continued: a spliced file could not be told from a whole one.

    Raises:
        DownloadError: if it does not arrive, or its checksum is another one (it is then deleted).
    """
    pooch.get_logger().setLevel(logging.WARNING)
    transfer = _transfer(client, path, resume=known_hash is not None, progress=progress)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pooch.retrieve(url, known_hash, fname=path.name, path=str(path.parent), downloader=transfer)
    except ValueError as error:  # pooch: the checksum differs, and it removed the file
        raise _another_file(url, error) from error
    except DownloadError as error:
        raise DownloadError(
            f"{path.name} could not be downloaded. {error}. "
            "Run the same command again: it continues where this one stopped."
        ) from error
    except OSError as error:
        raise DownloadError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _transfer(
    client: Client, path: Path, *, resume: bool, progress: bool
) -> Callable[[str, str, Any], None]:
    """How pooch gets a file: through our client, which keeps what arrived, with a bar."""

    def transfer(url: str, output_file: str, _: Any) -> None:
        bar = tqdm(unit="B", unit_scale=True, desc=path.name, disable=not progress, leave=False)

        def show(done: int, size: int | None) -> None:
            bar.total = size
            bar.update(done - bar.n)  # negative when a transfer starts over

        with bar:
            partial = path.with_name(path.name + ".partial")
            client.fetch(url, Path(output_file), partial=partial, resume=resume, progress=show)

    return transfer


def _another_file(url: str, error: ValueError) -> DownloadError:
    """What pooch says of a checksum, said to people."""
    found = re.search(r"expected (\S+) but got ([0-9a-f]+)", str(error))
    detail = "expected {}, got {}".format(*found.groups()) if found else str(error)
    return DownloadError(
        f"{url} is not the published file: its checksum differs ({detail}). It was deleted. "
        "A proxy's own page is a usual cause: try another network, or fetch the file by hand."
    )


def require_space(folder: Path, size: float) -> None:
    """Fail now rather than at the last file: is there room for `size` bytes in `folder`?

    Raises:
        DownloadError: with what is needed and what is there, in GB (10^9 bytes).
    """
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < size:
        raise DownloadError(
            f"not enough disk space in {folder}: needs {size / 1e9:.2f} GB, "
            f"has {free / 1e9:.2f} GB. Free some, or choose another folder."
        )


def extract(archive: Path, members: dict[str, Path]) -> None:
    """Unpack `members` (name in the zip → target) so that no target ever exists half-written.

    Raises:
        DownloadError: if the archive is damaged or lacks a member.
    """
    try:
        with ZipFile(archive) as bundle:
            for member, target in members.items():
                with bundle.open(member) as source:  # zipfile compares the CRC at the end
                    copy = functools.partial(shutil.copyfileobj, source, length=1 << 20)
                    write_atomically(target, copy)
    except KeyError as error:
        raise DownloadError(
            f"{archive} does not contain {member}: not the published archive. Delete it, try again."
        ) from error
    except (BadZipFile, EOFError) as error:
        raise DownloadError(f"{archive} is damaged ({error}). Delete it and try again.") from error
    except OSError as error:
        raise DownloadError(f"cannot unpack {archive}: {error.strerror or error}") from error
