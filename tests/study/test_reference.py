"""What is committed is lean and whole: records say what the numbers beside them say."""

import gzip
import json
import lzma

import numpy as np
import pytest

from lib.study import paths
from lib.study.data import scenes
from lib.study.records import MANIFEST, is_timing, read_records

RESULTS = paths.data_dir() / "results"
VALIDATION = RESULTS / "embedded-val"


@pytest.mark.parametrize("name", ["budgets", "clusters"])
def test_captions_of_the_validation_scenes_score_as_stored(name):
    document = json.loads(lzma.decompress((VALIDATION / f"{name}.json.xz").read_bytes()))
    captions = gzip.decompress((VALIDATION / "captions.txt.gz").read_bytes()).decode().split("\n")
    images = scenes.karpathy(splits={"val": document["images"]})["images"]
    objects = {image["cocoid"]: image["objects"] for image in images}
    assert set(document["image_ids"]) == objects.keys()
    for row in document["rows"]:
        said = [captions[number] for number in row["captions"]]
        scores = [
            scenes.object_f1(text, objects[i]).f1
            for i, text in zip(document["image_ids"], said, strict=True)
        ]
        assert np.mean(scores) == pytest.approx(row["Object F1"], abs=1e-12)


@pytest.mark.parametrize("profile, least", [("embedded", 30), ("photos", 20), ("shape", 30)])
def test_records_hold_no_times_and_every_image(profile, least):
    manifests = sorted((RESULTS / profile).glob(f"*/*/{MANIFEST}"))
    assert len(manifests) > least
    for path in manifests:
        document = json.loads(path.read_text(encoding="utf-8"))
        records = read_records(path.parent)
        assert len(records) == document["parameters"]["images"]["count"]
        assert not any(is_timing(key) for record in records for key in record)
        assert len(document["runs"]) == 1 and "throughput" not in document["runs"][0]
