"""Many small files in parallel."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from tqdm.auto import tqdm

from .client import Check, Client, DownloadError


class Job(NamedTuple):
    """One file to fetch: from `url` to `path`."""

    url: str
    path: Path


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
        missing = sum(not _succeeded(f) for f in futures)  # some arrive while the pool winds up
        early = ""
        if in_a_row >= give_up_after:
            early = f" Given up after {in_a_row} failures in a row."
        raise DownloadError(
            f"{missing} of {len(jobs)} {noun} could not be downloaded: {_some(failures, missing)}."
            f"{early} What arrived is kept: run the same command again to fetch only what is "
            "missing."
        )


def _some(failures: Sequence[tuple[str, str]], missing: int) -> str:
    """The first files and why they failed, and how many more are missing."""
    reasons = "; ".join(f"{name} ({reason})" for name, reason in failures[:5])
    return reasons + (f" and {missing - 5} more" if missing > 5 else "")


def _succeeded(future: Future) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
