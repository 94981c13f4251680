"""Flickr8k's list in anyone's order, photographs by number, and a download that knows its files."""

import hashlib
import io
import json
import random
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lib.study import paths
from lib.study.data import FLICKR8K, download, flickr
from lib.study.data.flickr import read_flickr
from lib.study.data.http import Client, DownloadError
from tests.loopback import Loopback

NUMBERS = (30, 4, 512, 77, 9, 2100)


def jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def entry(number, position, split="test"):
    sentences = [{"raw": f"Caption {i} of {number} .", "sentid": i} for i in range(5)]
    name = f"{number:010d}_{number:x}ab.jpg"
    return {"filename": name, "imgid": position, "split": split, "sentences": sentences}


def listing(numbers=NUMBERS):
    images = [entry(number, position) for position, number in enumerate(numbers)]
    return {"dataset": "flickr8k", "images": [*images, entry(5, 99, "train")]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A root of its own; returns where the data go by default."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.delenv("FLICKR8K_ROOT", raising=False)
    return tmp_path / "data" / "raw" / "flickr8k"


def fill(folder, document):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / flickr.LIST).write_text(json.dumps(document))
    for image in document["images"]:
        (folder / image["filename"]).write_bytes(b"photograph")


def test_who_numbered_the_list_and_in_which_order_changes_nothing(folder):
    fill(folder, listing())
    before = read_flickr(limit=3)
    shuffled = list(NUMBERS)
    random.Random(3).shuffle(shuffled)
    fill(folder, listing(shuffled))
    assert read_flickr(limit=3) == before
    everything = read_flickr()
    assert [e.image_id for e in everything] == sorted(NUMBERS)
    assert set(before) <= set(everything)
    assert everything[0].references[:2] == ("Caption 0 of 4 .", "Caption 1 of 4 .")


def test_what_is_missing_is_one_line_with_the_command(folder):
    with pytest.raises(FileNotFoundError, match=r"does not exist\. `make data PROFILE=photos`"):
        read_flickr()
    fill(folder, listing())
    for path in folder.glob("*.jpg"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"6 of 6 images are missing.*PROFILE=photos"):
        read_flickr()


def test_a_name_without_a_number_is_refused(folder):
    document = listing()
    document["images"][1]["filename"] = "beach.jpg"
    fill(folder, document)
    with pytest.raises(ValueError, match=r"'beach\.jpg' does not begin with a photograph's number"):
        read_flickr()


def test_another_folder_may_be_named(folder, monkeypatch, tmp_path):
    fill(tmp_path / "mine", listing())
    monkeypatch.setenv("FLICKR8K_ROOT", str(tmp_path / "mine"))
    assert len(read_flickr()) == len(NUMBERS)


def server(document, photographs):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as bundle:
        bundle.writestr("dataset_coco.json", "{}")
        bundle.writestr(flickr.LIST, json.dumps(document))
    routes = {f"/photographs/{name}": data for name, data in photographs.items()}
    return Loopback({"/captions.zip": stream.getvalue()} | routes), stream.getvalue()


def fetch(web, archive, **options):
    there = FLICKR8K.archive._replace(
        url=f"{web.url}/captions.zip", known_hash="sha256:" + hashlib.sha256(archive).hexdigest()
    )
    mirror = replace(FLICKR8K, archive=there, images_url=f"{web.url}/photographs")
    return download(mirror, client=Client(retries=0, timeout=5), progress=False, **options)


def test_exactly_the_photographs_wanted_are_downloaded_once(folder, capsys):
    document = listing()
    pictures = {image["filename"]: jpeg(i) for i, image in enumerate(document["images"])}
    web, archive = server(document, pictures)
    with web:
        few = fetch(web, archive, limit=2)
        assert len([path for path, _ in web.requests if "photographs" in path]) == 2
        everything = fetch(web, archive)
        assert len(web.requests) == 1 + len(NUMBERS)
        assert fetch(web, archive) == everything
        assert len(web.requests) == 1 + len(NUMBERS)
    assert everything == read_flickr() and set(few) <= set(everything)
    assert "research and education only" in capsys.readouterr().err
    assert "research" in (folder / "LICENCE.txt").read_text()
    assert not (folder / document["images"][-1]["filename"]).exists()  # of another split


def test_another_photograph_than_results_were_made_from_is_refused(folder, tmp_path):
    document = listing(NUMBERS[:2])
    names = [image["filename"] for image in document["images"]]
    pictures = {name: jpeg(i) for i, name in enumerate(names)}
    sums = tmp_path / "data" / "photos" / "photographs.txt"
    sums.parent.mkdir(parents=True)
    digits = hashlib.sha256(pictures[names[0]]).hexdigest()[:16]
    sums.write_text(f"{digits} {names[0]}\n{'0' * 16} {names[1]}\n")
    web, archive = server(document, pictures)
    with web, pytest.raises(DownloadError, match=rf"{names[1]}.*not 0000000000000000"):
        fetch(web, archive)
    assert (folder / names[0]).exists() and not (folder / names[1]).exists()


def test_every_photograph_of_dev_and_test_has_its_checksum():
    lines = (paths.data_dir() / "photos" / "photographs.txt").read_text().splitlines()
    rows = [line.split() for line in lines]
    assert len(rows) == 2000 == len({name for _, name in rows})
    assert all(len(digits) == 16 and int(digits, 16) >= 0 for digits, _ in rows)
    assert [name for _, name in rows] == sorted(name for _, name in rows)
