"""Downloading exactly the images of a split of COCO."""

import hashlib
import io
import json
import subprocess
import sys
import threading
import time
import zipfile
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from lib.study.data import COCO, SOURCES
from lib.study.data.coco import read_karpathy
from lib.study.data.fetching import check_image, download
from lib.study.data.http import Client, DownloadError, archives
from lib.study.paths import PACKAGE
from tests.loopback import Loopback, stall, status, truncate
from tests.study.data.coco_kit import entry, jpeg, put, write_json

SPLIT = [entry(i) for i in range(100, 112)] + [entry(200, split="val")]


def archive(images=SPLIT):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as bundle:
        bundle.writestr("dataset_flickr8k.json", "{}")
        bundle.writestr("dataset_coco.json", json.dumps({"images": images}))
    return stream.getvalue()


ARCHIVE = "/caption_datasets.zip"
ZIP = archive()
HASH = "sha256:" + hashlib.sha256(ZIP).hexdigest()


def served(**more):
    routes = {f"/val2014/{e['filename']}": jpeg(e["cocoid"]) for e in SPLIT}
    return {ARCHIVE: ZIP, **routes, **more}


def mirror(url, known_hash):
    """COCO, published elsewhere."""
    there = COCO.archive._replace(url=f"{url}{ARCHIVE}", known_hash=known_hash)
    return replace(COCO, archive=there, images_url=url)


def fetch(server, root, *, known_hash=HASH, **options):
    client = Client(retries=1, backoff=0.01, timeout=0.4)
    defaults = {
        "image_root": root,
        "json_path": root / "dataset_coco.json",
        "progress": False,
        "client": client,
    }
    return download(mirror(server.url, known_hash), "test", **{**defaults, **options})


def path_of(number):
    return f"/val2014/COCO_val2014_{number:012d}.jpg"


def test_exactly_the_split_is_downloaded_and_a_rerun_asks_for_nothing(tmp_path, capsys):
    with Loopback(served()) as server:
        examples = fetch(server, tmp_path)
        assert sorted(path for path, _ in server.requests) == sorted(
            [ARCHIVE, *(path_of(i) for i in range(100, 112))]
        )
        assert capsys.readouterr().err.count("CC BY 4.0") == 1
        again = fetch(server, tmp_path)
        assert len(server.requests) == 13 and again == examples
        assert "CC BY" not in capsys.readouterr().err
    assert [e.image_id for e in examples] == list(range(100, 112))
    assert examples == read_karpathy(tmp_path / "dataset_coco.json", "test")
    assert not list(tmp_path.rglob("*.partial")) and not list(tmp_path.glob("*.zip"))


def test_limit_fetches_the_subset_that_the_reader_returns(tmp_path):
    with Loopback(served()) as server:
        examples = fetch(server, tmp_path, limit=4, random_state=3)
        assert len(server.requests) == 5
    assert examples == read_karpathy(
        tmp_path / "dataset_coco.json", "test", limit=4, random_state=3
    )


@pytest.mark.parametrize(
    "trouble, says",
    [
        (status(404), "404 Not Found"),
        (status(429), "429 Too Many"),
        (status(500), "500 Internal"),
        (truncate(jpeg(1), 100), "ended at 100 of"),
        (stall(jpeg(1), 100), "timed out"),
        (jpeg(1)[:-200], "not a readable image"),
        (b"<html>Please log in</html>", "not a readable image"),
    ],
    ids=["404", "429", "500", "truncated", "stalled", "cut", "html"],
)
def test_one_bad_image_is_one_error_and_a_rerun_fetches_only_it(tmp_path, trouble, says):
    with Loopback(served(**{path_of(105): trouble})) as server:
        with pytest.raises(DownloadError, match="1 of 12 images") as error:
            fetch(server, tmp_path)
        message = str(error.value)
        assert says in message and "COCO_val2014_000000000105.jpg" in message
        assert "run the same command again" in message and "\n" not in message
    assert len(list(tmp_path.rglob("*.jpg"))) == 11
    assert not (tmp_path / path_of(105)[1:]).exists()
    with Loopback(served()) as server:
        assert len(fetch(server, tmp_path)) == 12
        assert [path for path, _ in server.requests] == [path_of(105)]


def test_passing_trouble_ends_well(tmp_path):
    troubles = {
        path_of(100): [status(429, Retry_After="0"), jpeg(100)],
        path_of(101): [truncate(jpeg(101), 50), jpeg(101)],
        path_of(102): [stall(jpeg(102), 50), jpeg(102)],
        path_of(103): [b"<html>", jpeg(103)],
        path_of(104): [status(503), jpeg(104)],
        ARCHIVE: [truncate(ZIP, 70), ZIP],
    }
    with Loopback(served(**troubles)) as server:
        assert len(fetch(server, tmp_path)) == 12


def test_a_killed_download_leaves_no_half_image_under_its_name(tmp_path):
    half = stall(jpeg(105), 200)
    with Loopback(served(**{path_of(105): half})) as server:
        call = {
            "image_root": str(tmp_path),
            "json_path": str(tmp_path / "d.json"),
            "progress": False,
        }
        code = (
            "from lib.study.data import download; "
            "from tests.study.data.test_coco_download import mirror; "
            f"download(mirror({server.url!r}, {HASH!r}), **{call!r})"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=PACKAGE.parent, stderr=subprocess.DEVNULL
        )
        try:
            deadline = time.monotonic() + 30
            partial = tmp_path / f"{path_of(105)[1:]}.partial"
            while len(list(tmp_path.rglob("*.jpg"))) < 11 or not partial.exists():
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait(10)
    assert not (tmp_path / path_of(105)[1:]).exists()
    with Loopback(served()) as server:
        assert len(fetch(server, tmp_path, json_path=tmp_path / "d.json")) == 12
        assert [path for path, _ in server.requests] == [path_of(105)]
    assert not list(tmp_path.rglob("*.partial"))


def test_a_wrong_archive_is_refused_and_replaced_on_the_next_run(tmp_path):
    with Loopback(served(**{ARCHIVE: archive(SPLIT[:1])})) as server:
        with pytest.raises(DownloadError, match="checksum differs"):
            fetch(server, tmp_path)
        assert not (tmp_path / "dataset_coco.json").exists()
        assert len(server.requests) == 1  # no image is asked for on the word of a wrong file
    with Loopback(served()) as server:
        assert len(fetch(server, tmp_path)) == 12


def test_without_a_checksum_the_archive_must_still_hold_the_split(tmp_path):
    damaged = pytest.raises(DownloadError, match="damaged")
    with Loopback(served(**{ARCHIVE: b"<html>"})) as server, damaged:
        fetch(server, tmp_path, known_hash=None)
    with Loopback(served()) as server:
        assert len(fetch(server, tmp_path, known_hash=None)) == 12


def test_existing_images_are_used_where_they_are(tmp_path):
    mine = tmp_path / "mine"
    for image in SPLIT[:9]:
        put(mine / "val2017" / f"{image['cocoid']:012d}.jpg", jpeg(image["cocoid"]))
    with Loopback(served()) as server:
        examples = fetch(server, tmp_path, image_root=mine)
        assert len(server.requests) == 1 + 3
    assert examples[0].path.parent == mine / "val2017"
    assert examples[-1].path.parent == mine / "val2014"


def test_a_complete_read_only_folder_is_only_read(tmp_path, monkeypatch):
    write_json(tmp_path / "dataset_coco.json", SPLIT)
    for image in SPLIT:
        put(tmp_path / "val2014" / image["filename"], jpeg())
    before = sorted(tmp_path.rglob("*"))
    with Loopback({}) as server:
        assert len(fetch(server, tmp_path)) == 12
        assert server.requests == []
    assert sorted(tmp_path.rglob("*")) == before


def test_recheck_replaces_an_image_that_does_not_decode(tmp_path):
    with Loopback(served()) as server:
        fetch(server, tmp_path)
        broken = tmp_path / path_of(107)[1:]
        broken.write_bytes(broken.read_bytes()[:-300])
        fetch(server, tmp_path)
        assert len(server.requests) == 13  # whole names are trusted ...
        fetch(server, tmp_path, recheck=True)
        assert server.counts[path_of(107)] == 2  # ... unless asked
    check_image(broken)


def test_too_little_space_is_said_before_any_image(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    write_json(tmp_path / "dataset_coco.json", SPLIT)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage(1e9, 1e9, 1e5))
    with Loopback(served()) as server:
        with pytest.raises(DownloadError, match="not enough disk space"):
            fetch(server, tmp_path)
        assert server.requests == []


def test_two_downloads_into_one_folder_do_the_work_once(tmp_path):
    with Loopback(served()) as server:
        results = []
        threads = [
            threading.Thread(target=lambda: results.append(fetch(server, tmp_path)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(server.requests) == 13
    assert len(results) == 3 and results[0] == results[1] == results[2]


def test_nothing_is_written_outside_the_folder(tmp_path):
    root, outside = tmp_path / "coco", tmp_path / "outside"
    outside.mkdir()
    odd = [*SPLIT[:3], entry(300, filename="../../outside/x.jpg")]
    with Loopback(served(**{ARCHIVE: archive(odd)})) as server:
        with pytest.raises(ValueError, match="leads out of its folder"):
            fetch(server, root, known_hash=None)
        assert len(server.requests) == 1
    root = tmp_path / "linked"
    root.mkdir()
    (root / "val2014").symlink_to(outside)
    with Loopback(served()) as server:
        with pytest.raises(ValueError, match="leads out of its folder"):
            fetch(server, root)
        assert len(server.requests) == 1
    assert not list(outside.iterdir())


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path):
    put(tmp_path / "file")
    with Loopback(served()) as server, pytest.raises(DownloadError, match="cannot write"):
        fetch(server, tmp_path / "file" / "coco")


def test_the_defaults_point_at_the_public_files():
    for source in SOURCES.values():
        url, known_hash = source.archive.url, source.archive.known_hash
        assert url.startswith("https://") and source.images_url.startswith("https://")
        assert known_hash.startswith("sha256:") and len(known_hash) == 71
        assert Path(url).suffix == ".zip"
    assert sum(COCO.split_sizes.values()) == 123_287  # 82,783 train2014 + 40,504 val2014
