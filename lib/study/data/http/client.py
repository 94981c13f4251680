"""One file over HTTP: tried again as urllib3's `Retry` says, continued, and never half-written."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import requests
import urllib3
from urllib3.util import Retry

#: A transfer slower than this many bytes a second, over a whole time-out, counts as stalled.
SLOWEST = 1024
_CHUNK = 1 << 16
#: Answers that a later request may not get again; every other refusal is final.
RETRIED = frozenset({408, 425, 429, *range(500, 600)})

Check = Callable[[Path], None]
Progress = Callable[[int, int | None], object]


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


class Client:
    """An HTTP client that retries politely; one object may serve many threads.

    A server error, a broken or stalled transfer and unreadable content are tried again `retries`
    times: at once, then `backoff` · 2^n seconds apart with as much jitter, or as late as the
    server's ``Retry-After`` asks. Other 4xx are final.

    Args:
        retries: attempts after the first one, whatever the reasons.
        backoff: seconds; see above.
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
        self.timeout, self.max_wait = timeout, max_wait
        self.retry = Retry(
            retries,
            status_forcelist=RETRIED,
            backoff_factor=backoff,
            backoff_jitter=backoff,
            backoff_max=max_wait,
        )
        self.stop = threading.Event()
        self._session = requests.Session()
        # One budget for answers, connections and transfers: the adapter itself tries once.
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
        progress: Progress | None = None,
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
        retry = self.retry
        while True:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._attempt(url, partial, resume, check, progress)
                os.replace(partial, path)
                return
            except _FinalError as error:
                raise DownloadError(f"{url}: {error}") from error
            except _TransientError as error:
                retry = self._spend(retry, url, error)
            except OSError as error:  # the disk, not the network: full, read-only, ...
                raise DownloadError(f"cannot write {partial}: {error.strerror or error}") from error

    def _spend(self, retry: Retry, url: str, error: _TransientError) -> Retry:
        """Take one retry off the budget and pause; what is left of it."""
        try:
            left = retry.increment("GET", url, error=error)
        except urllib3.exceptions.MaxRetryError:
            attempts = len(retry.history) + 1
            tries = f" ({attempts} attempts)" if attempts > 1 else ""
            raise DownloadError(f"{url}: {error}{tries}") from error
        if self.stop.wait(left.get_backoff_time() if error.wait is None else error.wait):
            raise DownloadError(f"{url}: stopped")
        return left

    def _attempt(
        self,
        url: str,
        partial: Path,
        resume: bool,
        check: Check | None,
        progress: Progress | None,
    ) -> None:
        if self.stop.is_set():
            raise _FinalError("stopped")
        if partial.is_symlink():  # nothing is written through a link that somebody left there
            partial.unlink()
        have = partial.stat().st_size if resume and partial.exists() else 0
        # without this, Content-Length would not be the file's size
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        try:
            answer = self._session.get(url, headers=headers, stream=True, timeout=self.timeout)
            with answer as response:
                self._transfer(response, partial, have, progress)
        except (requests.exceptions.SSLError, requests.exceptions.InvalidSchema) as error:
            raise _FinalError(_reason(error)) from error
        except requests.RequestException as error:
            # Malformed URLs are ValueErrors as well; time and network do not cure those.
            kind = _FinalError if isinstance(error, ValueError) else _TransientError
            raise kind(_reason(error)) from error
        except urllib3.exceptions.HTTPError as error:
            raise _TransientError(_reason(error)) from error
        if check is not None:
            try:
                check(partial)
            except InvalidContentError as error:
                partial.unlink(missing_ok=True)
                raise _TransientError(str(error)) from error

    def _transfer(
        self, response: requests.Response, partial: Path, have: int, progress: Progress | None
    ) -> None:
        """Store the body of a good answer; turn any other into an error."""
        status, start = response.status_code, response.headers.get("Content-Range", "")
        if status == 416 or (status == 206 and not start.startswith(f"bytes {have}-")):
            partial.unlink(missing_ok=True)
            raise _TransientError("the server cannot continue the partial file")
        if status not in (200, 206):
            raise self._refusal(response)
        if status == 200:
            have = 0
        length = response.headers.get("Content-Length", "")
        size = have + int(length) if length.isdigit() else None
        self._store(response.raw, partial, have, size, progress)

    def _refusal(self, response: requests.Response) -> Exception:
        message = f"{response.status_code} {response.reason}".strip()
        if response.status_code < 400:
            return _FinalError(f"unexpected answer {message}")
        if not self.retry.is_retry("GET", response.status_code):
            return _FinalError(message)
        try:
            wait = self.retry.get_retry_after(response.raw)
        except urllib3.exceptions.InvalidHeader:
            wait = None  # unreadable: the usual pause
        if wait is not None and wait > self.max_wait:
            return _FinalError(f"{message}; the server asks to come back in {wait:.0f} s")
        return _TransientError(message, wait)

    def _store(
        self,
        raw: urllib3.BaseHTTPResponse,
        partial: Path,
        have: int,
        size: int | None,
        progress: Progress | None,
    ) -> None:
        received, start = 0, time.monotonic()
        with open(partial, "ab" if have else "wb") as file:
            # read1 returns what has arrived; read would wait for a full piece and miss a stall
            while piece := _read(raw, have + received, size):
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


def _read(raw: urllib3.BaseHTTPResponse, done: int, size: int | None) -> bytes:
    """The next bytes; b"" at the end, if that is where it should be."""
    early = f"the transfer ended at {done} of {size if size is not None else 'unknown'} bytes"
    try:
        piece = raw.read1(_CHUNK)
    except urllib3.exceptions.ProtocolError as error:  # hung up, or reset the connection
        raise _TransientError(early) from error
    if not piece and size is not None and done != size:
        raise _TransientError(early)
    return piece


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
