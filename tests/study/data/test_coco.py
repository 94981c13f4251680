"""Reading both JSON layouts from any COCO folder, and downloading exactly a split's images."""

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

import numpy as np
import pytest
from PIL import Image

from lib.study.data import COCO, SOURCES, coco
from lib.study.data.coco import Example, missing_images, read_coco_captions, read_karpathy
from lib.study.data.fetching import check_image, download
from lib.study.data.http import Client, DownloadError, archives
from lib.study.paths import PACKAGE
from tests.loopback import Loopback, stall, status, truncate


def jpeg(seed=0, size=(32, 24)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def entry(number, split="test", part="val", **more):
    return {
        "cocoid": number,
        "imgid": number % 1000,
        "sentids": [1, 2],
        "split": split,
        "filepath": f"{part}2014",
        "filename": f"COCO_{part}2014_{number:012d}.jpg",
        "sentences": [{"raw": f"A caption of {number}. \n", "tokens": []}, {"raw": "Another one."}],
        **more,
    }


def write_json(path, images):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "dataset": "coco"}))
    return path


def put(path, content=b"jpeg"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


IMAGES = [
    entry(391895),
    entry(522418, split="restval"),
    entry(184613, split="train", part="train"),
    entry(318219, split="val"),
    entry(554625),
    entry(574769),
]


@pytest.fixture
def folder(tmp_path):
    """A COCO folder in the 2014 layout with every image of `IMAGES`."""
    write_json(tmp_path / "dataset_coco.json", IMAGES)
    for image in IMAGES:
        put(tmp_path / image["filepath"] / image["filename"])
    return tmp_path


# reading Karpathy's layout


def test_a_split_is_read_in_the_order_of_the_file(folder):
    examples = read_karpathy(folder / "dataset_coco.json", "test")
    assert [e.image_id for e in examples] == [391895, 554625, 574769]
    first = examples[0]
    assert first.references == ("A caption of 391895.", "Another one.")
    assert first.path == folder / "val2014" / "COCO_val2014_000000391895.jpg"
    assert first.extra == {}
    assert hash(first) == hash(Example(391895, first.path, first.references))


def test_two_splits_can_be_joined(folder):
    examples = read_karpathy(folder / "dataset_coco.json", "train+restval")
    assert [e.image_id for e in examples] == [522418, 184613]


def test_further_keys_come_along_and_cocoid_is_optional(tmp_path):
    scene = {
        "imgid": 7,
        "split": "test",
        "filepath": "",
        "filename": "scene.png",
        "sentences": [{"raw": "a red circle"}],
        "objects": [{"colour": "red", "shape": "circle"}],
    }
    put(tmp_path / "scene.png")
    (example,) = read_karpathy(write_json(tmp_path / "d.json", [scene]), "test")
    assert example.image_id == 7 and example.path == tmp_path / "scene.png"
    assert example.extra == {"objects": [{"colour": "red", "shape": "circle"}]}


def test_a_missing_split_names_those_that_exist(folder):
    with pytest.raises(ValueError, match=r"no split 'testing'; it has test \(3 images\)"):
        read_karpathy(folder / "dataset_coco.json", "testing")


def test_an_image_without_references_is_named(tmp_path):
    bare = entry(5, sentences=[{"raw": "  "}])
    path = write_json(tmp_path / "d.json", [entry(4), bare])
    with pytest.raises(ValueError, match=r"no reference captions for .*000000000005\.jpg"):
        read_karpathy(path, "test", check_files=False)


def test_a_blank_caption_is_dropped_with_a_warning(tmp_path):
    odd = entry(5, sentences=[{"raw": "one"}, {"raw": ""}])
    path = write_json(tmp_path / "d.json", [odd])
    with pytest.warns(UserWarning, match=r"blank captions of .*000000000005\.jpg"):
        (example,) = read_karpathy(path, "test", check_files=False)
    assert example.references == ("one",)


def test_missing_images_are_counted_and_the_first_five_named(tmp_path):
    path = write_json(tmp_path / "d.json", [entry(i) for i in range(8)])
    put(tmp_path / "val2014" / "COCO_val2014_000000000003.jpg")
    put(tmp_path / "val2014" / "COCO_val2014_000000000004.jpg", b"")  # empty counts as missing
    with pytest.raises(FileNotFoundError) as error:
        read_karpathy(path, "test")
    message = str(error.value)
    assert "7 of 8 images are missing" in message and "and 2 more" in message
    assert message.count(".jpg") == 5 and "000000000003" not in message
    assert "make data PROFILE=paper" in message
    examples = read_karpathy(path, "test", check_files=False)
    assert [e.image_id for e in missing_images(examples)] == [0, 1, 2, 4, 5, 6, 7]


def test_limit_draws_a_seeded_subset_in_order_and_larger_limits_only_add(tmp_path):
    path = write_json(tmp_path / "d.json", [entry(i) for i in range(50)])

    def ids(**options):
        return [e.image_id for e in read_karpathy(path, "test", check_files=False, **options)]

    ten, twenty = ids(limit=10), ids(limit=20)
    assert len(ten) == 10 and ten == sorted(ten) and ten == ids(limit=10)
    assert set(ten) < set(twenty)
    assert ten != list(range(10)) and ten != ids(limit=10, random_state=1)
    assert ids(limit=50) == ids(limit=99) == ids()
    with pytest.raises(ValueError, match="limit must be at least 1"):
        ids(limit=0)


@pytest.mark.parametrize(
    "content, says",
    [
        ('{"images": [', "not valid JSON"),
        ("[]", "no list `images`"),
        ('{"images": {}}', "no list `images`"),
        ('{"images": []}', "it has no images"),
        ('{"images": [{"split": "test", "cocoid": 3}]}', "lacks `filename`"),
        ('{"images": [{"split": "test", "filename": "x.jpg"}]}', "`cocoid`/`imgid`"),
    ],
)
def test_an_unusable_json_is_one_clear_error(tmp_path, content, says):
    put(tmp_path / "d.json", content.encode())
    with pytest.raises(ValueError, match=says):
        read_karpathy(tmp_path / "d.json", "test")


def test_a_missing_json_says_where_it_comes_from(tmp_path):
    with pytest.raises(FileNotFoundError, match="make data PROFILE=paper"):
        read_karpathy(tmp_path / "nowhere.json", "test")


def test_a_repeated_image_is_an_error(tmp_path):
    path = write_json(tmp_path / "d.json", [entry(3), entry(3)])
    with pytest.raises(ValueError, match="image id 3 occurs more than once"):
        read_karpathy(path, "test", check_files=False)


@pytest.mark.parametrize(
    "place",
    [
        "val2014/COCO_val2014_000000391895.jpg",
        "train2014/COCO_train2014_000000391895.jpg",
        "val2017/000000391895.jpg",
        "train2017/000000391895.jpg",
        "images/val2014/COCO_val2014_000000391895.jpg",
        "images/train2017/000000391895.jpg",
        "COCO_val2014_000000391895.jpg",
    ],
)
def test_an_existing_coco_folder_is_used_in_any_layout(tmp_path, place):
    path = write_json(tmp_path / "elsewhere" / "d.json", [entry(391895)])
    there = put(tmp_path / "coco" / place)
    (example,) = read_karpathy(path, "test", image_root=tmp_path / "coco")
    assert example.path == there


def test_the_environment_names_the_coco_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(coco, "raw_dir", lambda: tmp_path / "raw")
    monkeypatch.delenv("COCO_ROOT", raising=False)
    own = tmp_path / "raw" / "coco" / "dataset_coco.json"
    assert coco.coco_dir() == own.parent and coco.karpathy_json() == own
    monkeypatch.setenv("COCO_ROOT", str(tmp_path / "mine"))
    assert coco.coco_dir() == tmp_path / "mine"
    assert coco.karpathy_json() == own  # a COCO folder rarely holds Karpathy's split ...
    given = write_json(tmp_path / "mine" / "dataset_coco.json", [])
    assert coco.karpathy_json() == given  # ... but may


def test_the_generated_scenes_are_read_by_the_same_reader(tmp_path):
    scenes = pytest.importorskip("lib.study.data.scenes")
    document = scenes.karpathy(splits={"val": 20, "test": 100})
    json_path = tmp_path / "dataset_scenes.json"
    json_path.write_text(json.dumps(document))
    examples = read_karpathy(json_path, "test", check_files=False)
    assert len(examples) == 100 == len({e.image_id for e in examples})
    assert all(len(e.references) == 5 for e in examples)
    assert "objects" in examples[0].extra


# reading COCO's own captions


def captions_json(path, names, **more):
    document = {
        "images": [{"id": i, "file_name": n, "height": 24, **more} for i, n in names.items()],
        "annotations": [
            {"id": 10 * i + k, "image_id": i, "caption": f"caption {k} of {i}\n"}
            for k in range(2)
            for i in names
        ],
    }
    put(path, json.dumps(document).encode())
    return path


def test_captions_2014_and_2017_are_read_from_either_layout(tmp_path):
    old = captions_json(tmp_path / "captions_val2014.json", {9: "COCO_val2014_000000000009.jpg"})
    new = captions_json(tmp_path / "captions_val2017.json", {9: "000000000009.jpg"})
    for json_path in (old, new):
        for place in ("val2014/COCO_val2014_000000000009.jpg", "val2017/000000000009.jpg"):
            root = tmp_path / f"{json_path.stem}-{place[:7]}"
            there = put(root / place)
            (example,) = read_coco_captions(json_path, root)
            assert example == Example(
                9, there, ("caption 0 of 9", "caption 1 of 9"), {"height": 24}
            )


def test_the_address_tells_the_2017_folder(tmp_path):
    url = "http://images.cocodataset.org/train2017/000000000009.jpg"
    path = captions_json(tmp_path / "my.json", {9: "000000000009.jpg"}, coco_url=url)
    (example,) = read_coco_captions(path, tmp_path, check_files=False)
    assert example.path == tmp_path / "train2017" / "000000000009.jpg"


def test_captions_of_the_wrong_kind_are_refused(tmp_path):
    instances = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1}]}
    path = put(tmp_path / "instances.json", json.dumps(instances).encode())
    with pytest.raises(ValueError, match="without `caption`"):
        read_coco_captions(path, tmp_path)
    stray = {"images": [], "annotations": [{"image_id": 4, "caption": "x"}]}
    path = put(tmp_path / "stray.json", json.dumps(stray).encode())
    with pytest.raises(ValueError, match="1 images that it does not list, the first being 4"):
        read_coco_captions(path, tmp_path)
    bare = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}
    path = put(tmp_path / "bare.json", json.dumps(bare).encode())
    with pytest.raises(ValueError, match=r"no reference captions for a\.jpg"):
        read_coco_captions(path, tmp_path)


def test_captions_take_a_limit_too(tmp_path):
    names = {i: f"COCO_val2014_{i:012d}.jpg" for i in range(20)}
    path = captions_json(tmp_path / "captions_val2014.json", names)
    examples = read_coco_captions(path, tmp_path, limit=5, check_files=False)
    assert len(examples) == 5
    assert [e.image_id for e in examples] == sorted(e.image_id for e in examples)


# downloading

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
            "from lib.study.data import download; from tests.study.data.test_coco import mirror; "
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
