"""Many files: what arrived is kept, the rest is named, and no thread is left behind."""

import time

import pytest

from lib.study.data.http import DownloadError, Job, fetch_many, many
from tests.loopback import Loopback, status, truncate
from tests.study.data.http.quick import BODY, quick


def test_many_files_keep_what_arrived_and_a_rerun_fetches_the_rest(tmp_path):
    routes = {f"/{i}": BODY + bytes([i]) for i in range(30)}
    broken = {"/3": status(404), "/7": status(500), "/11": truncate(BODY, 9)}
    with Loopback({**routes, **broken}) as server:
        jobs = [Job(f"{server.url}/{i}", tmp_path / f"{i}.bin") for i in range(30)]
        with pytest.raises(DownloadError, match="3 of 30 files") as error:
            fetch_many(quick(), jobs, workers=4, noun="files", progress=False)
        message = str(error.value)
        assert all(part in message for part in ("3.bin (404", "7.bin (500", "9 of 10240 bytes"))
        assert "run the same command again" in message
    assert len(list(tmp_path.glob("*.bin"))) == 27
    with Loopback(routes) as server:
        rest = [
            Job(f"{server.url}/{i}", job.path)
            for i, job in enumerate(jobs)
            if not job.path.exists()
        ]
        fetch_many(quick(), rest, progress=False)
        assert len(server.requests) == 3
    assert len(list(tmp_path.glob("*.bin"))) == 30


def test_a_dead_server_is_left_alone_soon(tmp_path):
    with Loopback({}) as server:
        jobs = [Job(f"{server.url}/{i}", tmp_path / f"{i}") for i in range(300)]
        with pytest.raises(DownloadError, match=r"300 of 300 images.*failures in a row"):
            fetch_many(quick(), jobs, workers=4, give_up_after=10, progress=False)
        assert len(server.requests) < 100


def test_an_interruption_stops_the_threads(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(many, "as_completed", interrupt)
    with Loopback({f"/{i}": status(429, Retry_After="60") for i in range(40)}) as server:
        jobs = [Job(f"{server.url}/{i}", tmp_path / f"{i}") for i in range(40)]
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            fetch_many(quick(max_wait=100), jobs, workers=2, progress=False)
        assert time.monotonic() - start < 5
