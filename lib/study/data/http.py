"""Polite HTTP downloads: resumable, checked before a file gets its name, clear when they fail.

What pooch (https://www.fatiando.org/pooch) does well is left to it: comparing a checksum, giving
an archive its name only then. What it lacks is here, as a downloader that pooch calls: waiting
as long as the server asks (``Retry-After``), exponential back-off, continuing a partial file,
noticing a transfer that stalls, and many small files in parallel.
"""

import logging
import os
import random
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile, ZipFile

import pooch
import requests
import urllib3
from tqdm.auto import tqdm

#: A transfer slower than this many bytes a second, over a whole time-out, counts as stalled.
SLOWEST = 1024
_CHUNK = 1 << 16
#: 4xx answers that a later request may not get again; every other one is final.
_TRANSIENT = {408, 425, 429}

Check = Callable[[Path], None]


class DownloadError(RuntimeError):
    """A download that did not end well; the message says what is missing and how to go on."""


class InvalidContentError(ValueError):
    """Raised by a check: the bytes arrived, but they are not what was asked for."""


class _TransientError(Exception):
    """Worth another attempt, after `wait` seconds if the server named a time."""

    def __init__(self, message: str, wait: float | None = None):
        super().__init__(message)
        self.wait = wait


class _FinalError(Exception):
    """Another attempt would end the same way."""


class Job(NamedTuple):
    """One file to fetch: from `url` to `path`."""

    url: str
    path: Path


class Client:
    """An HTTP client that retries politely; one object may serve many threads.

    A server error, a broken or stalled transfer and unreadable content are tried again `retries`
    times, `backoff` · 2^attempt seconds apart (with jitter, at most `max_wait`), or as late as the
    server's ``Retry-After`` asks, in which case *all* threads hold back. Other 4xx are final.

    Args:
        retries: attempts after the first one.
        backoff: seconds before the second attempt.
        timeout: seconds to wait for a connection and for the next bytes.
        max_wait: longest pause in seconds; a server asking for more ends the download.
        connections: size of the connection pool.
    """

    def __init__(
        self,
        *,
        retries: int = 5,
        backoff: float = 1.0,
        timeout: float = 30.0,
        max_wait: float = 120.0,
        connections: int = 8,
    ):
        self.retries, self.backoff, self.timeout, self.max_wait = (
            retries,
            backoff,
            timeout,
            max_wait,
        )
        self.stop = threading.Event()
        self._free_at = 0.0
        self._lock = threading.Lock()
        self._jitter = random.Random()
        self._session = requests.Session()
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=connections)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        self._session.headers["User-Agent"] = f"entropy-prune (requests/{requests.__version__})"

    def fetch(
        self,
        url: str,
        path: Path,
        *,
        partial: Path | None = None,
        resume: bool = False,
        check: Check | None = None,
        progress: Callable[[int, int | None], object] | None = None,
    ) -> None:
        """Download `url` to `path`, which exists only once the whole file passed `check`.

        Args:
            partial: where the bytes go meanwhile (`path` + ".partial").
            resume: continue an existing partial file. Only for files whose checksum is compared
                afterwards, because the server's file may have changed in between.
            check: called with the partial file; raises `InvalidContentError` if it is not right.
            progress: called with the bytes there so far and the file's size (None if unknown).

        Raises:
            DownloadError: naming the URL and the last reason.
        """
        partial = partial or path.with_name(path.name + ".partial")
        for attempt in range(self.retries + 1):
            try:
                self._hold()
                path.parent.mkdir(parents=True, exist_ok=True)
                self._transfer(url, partial, resume, progress)
                if check is not None:
                    try:
                        check(partial)
                    except InvalidContentError as error:
                        partial.unlink(missing_ok=True)
                        raise _TransientError(str(error)) from error
                os.replace(partial, path)
                return
            except _FinalError as error:
                raise DownloadError(f"{url}: {error}") from error
            except _TransientError as error:
                if attempt == self.retries:
                    tries = f" ({attempt + 1} attempts)" if attempt else ""
                    raise DownloadError(f"{url}: {error}{tries}") from error
                self._plan_pause(attempt, error.wait, url)
            except OSError as error:  # the disk, not the network: full, read-only, ...
                raise DownloadError(f"cannot write {partial}: {error.strerror or error}") from error

    def _transfer(self, url, partial, resume, progress):
        have = partial.stat().st_size if resume and partial.exists() else 0
        headers = {
            "Accept-Encoding": "identity"
        }  # else Content-Length would not be the file's size
        if have:
            headers["Range"] = f"bytes={have}-"
        try:
            with self._session.get(
                url, headers=headers, stream=True, timeout=self.timeout
            ) as response:
                self._judge(response)
                if response.status_code == 416 or (
                    response.status_code == 206
                    and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
                ):
                    partial.unlink(missing_ok=True)
                    raise _TransientError("the server cannot continue the partial file")
                if response.status_code == 200:
                    have = 0
                length = response.headers.get("Content-Length", "")
                size = have + int(length) if length.isdigit() else None
                self._store(response.raw, partial, have, size, progress)
        except (requests.exceptions.SSLError, requests.exceptions.InvalidSchema) as error:
            raise _FinalError(_reason(error)) from error
        except requests.RequestException as error:
            # Malformed URLs are ValueErrors as well; time and network do not cure those.
            kind = _FinalError if isinstance(error, ValueError) else _TransientError
            raise kind(_reason(error)) from error
        except urllib3.exceptions.HTTPError as error:
            raise _TransientError(_reason(error)) from error

    def _judge(self, response):
        status = response.status_code
        if status in (200, 206, 416):
            return
        message = f"{status} {response.reason}".strip()
        if status < 400:
            raise _FinalError(f"unexpected answer {message}")
        if status < 500 and status not in _TRANSIENT:
            raise _FinalError(message)
        wait = None
        if after := response.headers.get("Retry-After"):
            try:
                wait = urllib3.util.Retry().parse_retry_after(after)
            except urllib3.exceptions.InvalidHeader:
                wait = None  # unreadable: fall back to our own back-off
        if wait is not None and wait > self.max_wait:
            raise _FinalError(f"{message}; the server asks to come back in {wait:.0f} s")
        raise _TransientError(message, wait)

    def _store(self, raw, partial, have, size, progress):
        received, start = 0, time.monotonic()
        with open(partial, "ab" if have else "wb") as file:
            # read1 returns what has arrived; read would wait for a full piece and miss a stall
            while piece := self._read(raw, have + received, size):
                file.write(piece)
                received += len(piece)
                if progress is not None:
                    progress(have + received, size)
                elapsed = time.monotonic() - start
                if elapsed > self.timeout and received < SLOWEST * elapsed:
                    raise _TransientError(f"stalled at {received} bytes after {elapsed:.1f} s")
                if self.stop.is_set():
                    raise _FinalError("stopped")
        if have + received == 0:
            raise _TransientError("the server sent an empty file")

    @staticmethod
    def _read(raw, done, size):
        early = f"the transfer ended at {done} of {size if size is not None else 'unknown'} bytes"
        try:
            piece = raw.read1(_CHUNK)
        except urllib3.exceptions.ProtocolError as error:  # hung up, or reset the connection
            raise _TransientError(early) from error
        if not piece and size is not None and done != size:
            raise _TransientError(early)
        return piece

    def _plan_pause(self, attempt: int, asked: float | None, url: str) -> None:
        if asked is not None:  # the server speaks to the client, not to one thread
            with self._lock:
                self._free_at = max(self._free_at, time.monotonic() + asked)
            return
        pause = min(self.backoff * 2**attempt, self.max_wait) * self._jitter.uniform(0.75, 1.25)
        if self.stop.wait(pause):
            raise DownloadError(f"{url}: stopped")

    def _hold(self) -> None:
        while (pause := self._free_at - time.monotonic()) > 0:
            if self.stop.wait(pause):
                break
        if self.stop.is_set():
            raise _FinalError("stopped")


def _reason(error: Exception) -> str:
    """The innermost reason of a nested network error, without object addresses."""
    if isinstance(error, requests.exceptions.ReadTimeout | urllib3.exceptions.ReadTimeoutError):
        return "timed out waiting for the server"
    while True:
        inner = getattr(error, "reason", None)
        if not isinstance(inner, Exception):
            inner = next((arg for arg in error.args if isinstance(arg, Exception)), None)
        if inner is None:
            break
        if isinstance(inner, urllib3.exceptions.ReadTimeoutError):
            return "timed out waiting for the server"
        error = inner
    text = str(error).rsplit(">: ", 1)[-1]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


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
    partial = path.with_name(path.name + ".partial")

    def downloader(url, output_file, _pooch):
        with tqdm(
            unit="B", unit_scale=True, desc=path.name, disable=not progress, leave=False
        ) as bar:

            def show(done, size):
                bar.total = size
                bar.update(done - bar.n)  # negative when a transfer starts over

            client.fetch(
                url,
                Path(output_file),
                partial=partial,
                resume=known_hash is not None,
                progress=show,
            )

    pooch.get_logger().setLevel(logging.WARNING)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pooch.retrieve(
            url, known_hash, fname=path.name, path=str(path.parent), downloader=downloader
        )
    except ValueError as error:  # pooch: the checksum differs, and it removed the file
        found = re.search(r"expected (\S+) but got ([0-9a-f]+)", str(error))
        detail = "expected {}, got {}".format(*found.groups()) if found else str(error)
        raise DownloadError(
            f"{url} is not the published file: its checksum differs ({detail}). It was deleted. "
            "A proxy's own page is a usual cause: try another network, or fetch the file by hand."
        ) from error
    except DownloadError as error:
        raise DownloadError(
            f"{path.name} could not be downloaded. {error}. "
            "Run the same command again: it continues where this one stopped."
        ) from error
    except OSError as error:
        raise DownloadError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def fetch_many(
    client: Client,
    jobs: Iterable[Job],
    *,
    workers: int = 8,
    check: Check | None = None,
    progress: bool = True,
    noun: str = "images",
    give_up_after: int = 20,
) -> None:
    """Download many small files in parallel; one that fails does not stop the others.

    Args:
        workers: transfers at a time.
        check: as in `Client.fetch`.
        noun: what the files are, for the progress bar and the error.
        give_up_after: failures in a row, without a success between them, that end the whole run
            (the network is gone, or the server refuses us: going on would only be rude).

    Raises:
        DownloadError: one message that names the files which are missing, why, and how to resume.
    """
    jobs = list(jobs)
    failures: list[tuple[str, str]] = []
    in_a_row = 0
    with (
        ThreadPoolExecutor(workers, thread_name_prefix="download") as pool,
        tqdm(total=len(jobs), desc=noun, unit="file", disable=not progress) as bar,
    ):
        futures = {pool.submit(client.fetch, job.url, job.path, check=check): job for job in jobs}
        try:
            for future in as_completed(futures):
                try:
                    future.result()
                    in_a_row = 0
                    bar.update()
                except DownloadError as error:
                    job = futures[future]
                    failures.append((job.path.name, str(error).removeprefix(f"{job.url}: ")))
                    in_a_row += 1
                    if in_a_row >= give_up_after:
                        break
        finally:  # also on Ctrl-C: no thread may hold the process up
            if any(not future.done() for future in futures):
                client.stop.set()
                pool.shutdown(cancel_futures=True)
    if failures:
        late = sum(_succeeded(future) for future in futures)  # some arrive while the pool winds up
        missing = len(jobs) - late
        reasons = "; ".join(f"{name} ({reason})" for name, reason in failures[:5])
        more = f" and {missing - 5} more" if missing > 5 else ""
        early = ""
        if in_a_row >= give_up_after:
            early = f" Given up after {in_a_row} failures in a row."
        raise DownloadError(
            f"{missing} of {len(jobs)} {noun} could not be downloaded: {reasons}{more}.{early} "
            "What arrived is kept: run the same command again to fetch only what is missing."
        )


def _succeeded(future: Future) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


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
                target.parent.mkdir(parents=True, exist_ok=True)
                partial = target.with_name(target.name + ".partial")
                with bundle.open(member) as source, open(partial, "wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)  # zipfile compares the CRC at the end
                os.replace(partial, target)
    except KeyError as error:
        raise DownloadError(
            f"{archive} does not contain {member}: not the published archive. Delete it, try again."
        ) from error
    except (BadZipFile, EOFError) as error:
        raise DownloadError(f"{archive} is damaged ({error}). Delete it and try again.") from error
    except OSError as error:
        raise DownloadError(f"cannot unpack {archive}: {error.strerror or error}") from error
