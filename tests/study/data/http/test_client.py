"""Each kind of trouble on the way of one file ends right, or in one clear error."""

import time

import pytest

from lib.study.data.http import DownloadError, InvalidContentError, fetch_archive
from tests.loopback import Loopback, dribble, stall, status, truncate
from tests.study.data.http.quick import BODY, leftovers, quick


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


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with Loopback({"/a": BODY}) as server:
        with pytest.raises(DownloadError, match="cannot write"):
            quick().fetch(f"{server.url}/a", tmp_path / "file" / "a")
        with pytest.raises(DownloadError, match="cannot write"):
            fetch_archive(quick(), f"{server.url}/a", tmp_path / "file" / "a", known_hash=None)


def test_one_budget_for_every_kind_of_trouble(tmp_path):
    troubles = [status(500), truncate(BODY, 10), status(429), BODY]
    with Loopback({"/a": troubles}) as server:
        with pytest.raises(DownloadError, match=r"429 Too Many Requests \(3 attempts\)"):
            quick().fetch(f"{server.url}/a", tmp_path / "a")
        assert server.counts["/a"] == 3
    with Loopback({"/a": troubles}) as server:
        quick(retries=3).fetch(f"{server.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_pauses_grow_with_jitter_up_to_the_longest():
    retry, pauses = quick(retries=9, backoff=1.0, max_wait=10.0).retry, []
    for _ in range(8):
        retry = retry.increment("GET", "/", error=OSError("broken"))
        pauses.append(retry.get_backoff_time())
    assert pauses[0] == 0  # the first retry comes at once
    for number, pause in enumerate(pauses[1:], 1):
        assert min(2**number, 10) <= pause <= min(2**number + 1, 10)


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / "a.partial").symlink_to(tmp_path / "precious")
    with Loopback({"/a": BODY}) as server:
        quick().fetch(f"{server.url}/a", tmp_path / "a")
    assert (tmp_path / "precious").read_bytes() == b"mine"
    assert (tmp_path / "a").read_bytes() == BODY and not (tmp_path / "a").is_symlink()
