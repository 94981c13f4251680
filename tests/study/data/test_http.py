"""Downloads against a loopback server: each kind of failure ends right, or in one clear error."""

import hashlib
import io
import threading
import time
import zipfile
from collections import namedtuple

import pytest

from lib.study.data import http as download
from lib.study.data.http import (
    Client,
    DownloadError,
    InvalidContentError,
    Job,
    extract,
    fetch_archive,
    fetch_many,
    require_space,
)
from tests.loopback import Loopback, dribble, ignores_range, stall, status, truncate

BODY = bytes(range(256)) * 40


def quick(**options):
    return Client(**{"retries": 2, "backoff": 0.01, "timeout": 0.3, **options})


def sha256(body):
    return "sha256:" + hashlib.sha256(body).hexdigest()


def leftovers(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def test_a_file_arrives_whole_and_leaves_nothing_else(tmp_path):
    with Loopback({"/a": BODY}) as server:
        quick().fetch(f"{server.url}/a", tmp_path / "sub" / "a.bin")
    assert (tmp_path / "sub" / "a.bin").read_bytes() == BODY
    assert leftovers(tmp_path) == ["a.bin"]


@pytest.mark.parametrize(
    "trouble",
    [
        status(500),
        status(503),
        status(429),
        status(408),
        truncate(BODY, 1000),
        stall(BODY, 1000),
        dribble(BODY),
        b"",
    ],
    ids=["500", "503", "429", "408", "truncated", "stalled", "dribbling", "empty"],
)
def test_passing_trouble_is_retried(tmp_path, trouble):
    with Loopback({"/a": [trouble, BODY]}) as server:
        quick().fetch(f"{server.url}/a", tmp_path / "a")
        assert server.counts["/a"] == 2
    assert (tmp_path / "a").read_bytes() == BODY


@pytest.mark.parametrize(
    "trouble, says",
    [
        (status(500), "500 Internal Server Error"),
        (status(429), "429 Too Many Requests"),
        (truncate(BODY, 1000), "1000 of 10240 bytes"),
        (stall(BODY, 1000), "timed out"),
        (dribble(BODY), "stalled at"),
        (b"", "empty file"),
    ],
    ids=["500", "429", "truncated", "stalled", "dribbling", "empty"],
)
def test_lasting_trouble_is_one_error_and_no_file(tmp_path, trouble, says):
    with Loopback({"/a": trouble}) as server:
        with pytest.raises(DownloadError, match=says) as error:
            quick().fetch(f"{server.url}/a", tmp_path / "a")
        assert server.counts["/a"] == 3
        assert "3 attempts" in str(error.value) and server.url in str(error.value)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
def test_a_refusal_is_final_at_once(tmp_path, code):
    with Loopback({"/a": status(code)}) as server:
        with pytest.raises(DownloadError, match=str(code)):
            quick().fetch(f"{server.url}/a", tmp_path / "a")
        assert server.counts["/a"] == 1


def test_retry_after_is_obeyed_in_both_notations(tmp_path):
    past = "Wed, 21 Oct 2015 07:28:00 GMT"  # already over: no pause, and no error
    waits = [status(429, Retry_After="1"), status(503, Retry_After=past), BODY]
    with Loopback({"/a": waits}) as server:
        start = time.monotonic()
        quick().fetch(f"{server.url}/a", tmp_path / "a")
        assert 0.9 < time.monotonic() - start < 3
        assert server.counts["/a"] == 3


def test_an_unreadable_retry_after_falls_back_to_the_usual_pause(tmp_path):
    with Loopback({"/a": [status(429, Retry_After="soon"), BODY]}) as server:
        quick().fetch(f"{server.url}/a", tmp_path / "a")
    assert (tmp_path / "a").exists()


def test_too_long_a_retry_after_ends_the_download_instead_of_hanging(tmp_path):
    with Loopback({"/a": status(429, Retry_After="7200")}) as server:
        with pytest.raises(DownloadError, match="come back in 7200 s"):
            quick().fetch(f"{server.url}/a", tmp_path / "a")
        assert server.counts["/a"] == 1


def test_retry_after_holds_every_thread_back(tmp_path):
    with Loopback({"/a": [status(429, Retry_After="1"), BODY], "/b": BODY}) as server:
        client = quick()
        first = threading.Thread(target=client.fetch, args=(f"{server.url}/a", tmp_path / "a"))
        first.start()
        while not server.counts["/a"]:
            time.sleep(0.01)
        time.sleep(0.2)  # the first thread has read the answer
        start = time.monotonic()
        client.fetch(f"{server.url}/b", tmp_path / "b")
        assert time.monotonic() - start > 0.5
        first.join()


def test_nobody_listening_is_one_clear_error(tmp_path):
    with Loopback({}) as server:
        url = server.url
    with pytest.raises(DownloadError, match="refused") as error:
        quick(retries=1).fetch(f"{url}/a", tmp_path / "a")
    assert "0x" not in str(error.value)


@pytest.mark.parametrize("url", ["no-scheme/file", "gopher://127.0.0.1/a", "http://"])
def test_a_malformed_address_is_not_retried(tmp_path, url):
    client = quick(backoff=30)  # a retry would hang the test
    with pytest.raises(DownloadError):
        client.fetch(url, tmp_path / "a")


def test_content_that_fails_its_check_is_fetched_again(tmp_path):
    def check(path):
        if path.read_bytes() != BODY:
            raise InvalidContentError("not the body")

    with Loopback({"/a": [b"<html>", BODY], "/b": b"<html>"}) as server:
        quick().fetch(f"{server.url}/a", tmp_path / "a", check=check)
        with pytest.raises(DownloadError, match="not the body"):
            quick().fetch(f"{server.url}/b", tmp_path / "b", check=check)
    assert leftovers(tmp_path) == ["a"]


def test_an_archive_continues_where_an_earlier_run_stopped(tmp_path):
    target = tmp_path / "data.zip"
    wanted = {"known_hash": sha256(BODY)}
    again = pytest.raises(DownloadError, match="Run the same command again")
    with Loopback({"/z": truncate(BODY, 4000)}) as server, again:
        fetch_archive(quick(retries=0), f"{server.url}/z", target, **wanted)
    assert not target.exists() and (tmp_path / "data.zip.partial").stat().st_size == 4000
    with Loopback({"/z": BODY}) as server:
        fetch_archive(quick(), f"{server.url}/z", target, progress=False, **wanted)
        assert [h.get("Range") for _, h in server.requests] == ["bytes=4000-"]
    assert target.read_bytes() == BODY and leftovers(tmp_path) == ["data.zip"]


def test_an_archive_continues_within_one_run_too(tmp_path):
    with Loopback({"/z": [truncate(BODY, 4000), BODY]}) as server:
        target = fetch_archive(quick(), f"{server.url}/z", tmp_path / "z", known_hash=sha256(BODY))
        assert [h.get("Range") for _, h in server.requests] == [None, "bytes=4000-"]
    assert target.read_bytes() == BODY


def test_a_server_without_ranges_sends_all_of_it_again(tmp_path):
    (tmp_path / "z.partial").write_bytes(BODY[:4000])
    with Loopback({"/z": ignores_range(BODY)}) as server:
        target = fetch_archive(quick(), f"{server.url}/z", tmp_path / "z", known_hash=sha256(BODY))
    assert target.read_bytes() == BODY


def test_a_partial_file_longer_than_the_whole_starts_over(tmp_path):
    (tmp_path / "z.partial").write_bytes(BODY + b"more")
    with Loopback({"/z": BODY}) as server:
        target = fetch_archive(quick(), f"{server.url}/z", tmp_path / "z", known_hash=sha256(BODY))
    assert target.read_bytes() == BODY


def test_without_a_checksum_nothing_is_spliced(tmp_path):
    (tmp_path / "z.partial").write_bytes(b"something older")
    with Loopback({"/z": BODY}) as server:
        target = fetch_archive(quick(), f"{server.url}/z", tmp_path / "z", known_hash=None)
        assert "Range" not in server.requests[0][1]
    assert target.read_bytes() == BODY


def test_a_wrong_checksum_is_one_error_and_a_rerun_starts_afresh(tmp_path):
    target = tmp_path / "z"
    with Loopback({"/z": [b"someone's login page", BODY]}) as server:
        with pytest.raises(DownloadError, match="checksum differs") as error:
            fetch_archive(quick(), f"{server.url}/z", target, known_hash=sha256(BODY))
        assert sha256(BODY) in str(error.value) and "\n" not in str(error.value)
        assert leftovers(tmp_path) == []
        fetch_archive(quick(), f"{server.url}/z", target, known_hash=sha256(BODY))
    assert target.read_bytes() == BODY


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

    monkeypatch.setattr(download, "as_completed", interrupt)
    with Loopback({f"/{i}": status(429, Retry_After="60") for i in range(40)}) as server:
        jobs = [Job(f"{server.url}/{i}", tmp_path / f"{i}") for i in range(40)]
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            fetch_many(quick(max_wait=100), jobs, workers=2, progress=False)
        assert time.monotonic() - start < 5


def test_too_little_disk_space_is_said_before_anything_is_fetched(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage(9e9, 8.5e9, 5e8))
    require_space(tmp_path / "not" / "yet" / "there", 4e8)
    with pytest.raises(DownloadError, match=r"needs 0\.82 GB, has 0\.50 GB"):
        require_space(tmp_path, 8.2e8)


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with Loopback({"/a": BODY}) as server:
        with pytest.raises(DownloadError, match="cannot write"):
            quick().fetch(f"{server.url}/a", tmp_path / "file" / "a")
        with pytest.raises(DownloadError, match="cannot write"):
            fetch_archive(quick(), f"{server.url}/a", tmp_path / "file" / "a", known_hash=None)


def zipped(**members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return stream.getvalue()


def test_unpacking_gives_a_name_only_to_whole_files(tmp_path):
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped(one="first", two="second"))
    extract(archive, {"one": tmp_path / "x" / "1"})
    assert (tmp_path / "x" / "1").read_text() == "first"
    with pytest.raises(DownloadError, match="does not contain three"):
        extract(archive, {"three": tmp_path / "3"})
    damaged = archive.read_bytes().replace(b"second", b"sec0nd")
    archive.write_bytes(damaged)
    with pytest.raises(DownloadError, match="damaged"):
        extract(archive, {"two": tmp_path / "2"})
    archive.write_bytes(b"no zip at all")
    with pytest.raises(DownloadError, match="damaged"):
        extract(archive, {"two": tmp_path / "2"})
    assert not (tmp_path / "2").exists() and not (tmp_path / "3").exists()
