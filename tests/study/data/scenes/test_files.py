"""The split on disk: drawn once, atomically, and read by the reader of COCO."""

import json

import numpy as np
import pytest
from PIL import Image

from lib.study.data.coco import read_karpathy
from lib.study.data.scenes import (
    SPLITS,
    captions,
    draw,
    ensure_scenes,
    files,
    image_id,
    karpathy,
    sample_scene,
    scene_seed,
)


def test_karpathy_layout():
    listing = karpathy(splits={"val": 3, "test": 2})
    images = listing["images"]
    assert [image["split"] for image in images] == ["val"] * 3 + ["test"] * 2
    assert len({image["cocoid"] for image in images}) == 5
    assert [image["imgid"] for image in images] == list(range(5))
    sentences = [s for image in images for s in image["sentences"]]
    assert [s["sentid"] for s in sentences] == list(range(25))
    for image in images:
        assert image["sentids"] == [s["sentid"] for s in image["sentences"]]
        assert image["filepath"] == image["split"]
        for sentence in image["sentences"]:
            assert sentence["imgid"] == image["imgid"]
            assert sentence["raw"].endswith(".") and sentence["raw"][0].isupper()
            assert sentence["tokens"] == sentence["raw"].lower().strip(".").replace(",", "").split()
    assert json.loads(json.dumps(listing)) == listing


def test_ensure_scenes_draws_once_and_the_coco_reader_reads(tmp_path):
    listing = ensure_scenes("val", limit=3, progress=False, folder=tmp_path)
    drawn = sorted((tmp_path / "val").iterdir())
    assert [path.name for path in drawn] == [f"scene_val_{i:06d}.png" for i in range(3)]
    stamps = [path.stat().st_mtime_ns for path in drawn]
    drawn[1].unlink()  # a stopped call left one out
    assert ensure_scenes("val", limit=4, progress=False, folder=tmp_path) == listing
    again = [path.stat().st_mtime_ns for path in drawn]
    assert again[0] == stamps[0] and again[2] == stamps[2] and again[1] != stamps[1]
    assert not list(tmp_path.rglob("*.partial"))
    with Image.open(drawn[1]) as image:
        assert np.array_equal(np.asarray(image), draw(sample_scene(scene_seed("val", 1))))

    examples = read_karpathy(listing, "val", check_files=False)
    assert len(examples) == SPLITS["val"].count
    assert examples[0].path == drawn[0]
    assert examples[0].references == tuple(captions(sample_scene(scene_seed("val", 0))))
    assert examples[0].image_id == image_id("val", 0)


def test_ensure_scenes_redraws_what_another_version_drew(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "karpathy", lambda: karpathy(splits={"val": 5}))
    listing = ensure_scenes("val", limit=1, progress=False, folder=tmp_path)
    old = tmp_path / "val" / "scene_val_000000.png"
    old.write_bytes(b"of an older version")
    listing.write_text(listing.read_text().replace('"version":1', '"version":0', 1))
    ensure_scenes("val", limit=1, progress=False, folder=tmp_path)
    with Image.open(old) as image:
        assert image.size == (224, 224)
    assert '"version":1' in listing.read_text()[:64]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "unknown split 'dev'"),
        ({"limit": -1}, "limit must not be negative"),
        ({"workers": 0}, "workers must be at least 1"),
    ],
)
def test_ensure_scenes_refuses(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        ensure_scenes(folder=tmp_path, progress=False, **options)
    assert not list(tmp_path.iterdir())
