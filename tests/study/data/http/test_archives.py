"""Archives: continued, compared with their checksum, and unpacked without half-written files."""

import hashlib
import io
import zipfile
from collections import namedtuple

import pytest

from lib.study.data.http import DownloadError, archives, extract, fetch_archive, require_space
from tests.loopback import Loopback, ignores_range, truncate
from tests.study.data.http.quick import BODY, leftovers, quick


def sha256(body):
    return "sha256:" + hashlib.sha256(body).hexdigest()


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


def test_too_little_disk_space_is_said_before_anything_is_fetched(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage(9e9, 8.5e9, 5e8))
    require_space(tmp_path / "not" / "yet" / "there", 4e8)
    with pytest.raises(DownloadError, match=r"needs 0\.82 GB, has 0\.50 GB"):
        require_space(tmp_path, 8.2e8)


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
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "x"}
