"""Manifests refuse mixtures and note what changes by rounding."""

import json
import warnings

import numpy as np
import pytest
import torch

from lib.study.records import Manifest, ManifestMismatch, RecordFolder, method_places
from tests.study.records.writing import fill, record


def test_other_parameters_are_refused_with_every_difference(tmp_path):
    stored = {"prompt": "a", "method": {"name": "fastv", "keep": 0.5}, "seed": 0}
    fill(tmp_path / "m", [1], parameters=stored)
    before = (tmp_path / "m" / "records.jsonl").read_bytes()
    asked = {"prompt": "b", "method": {"name": "fastv", "keep": 0.25}, "dtype": "float16"}
    with pytest.raises(ManifestMismatch) as caught:
        RecordFolder(tmp_path / "m", asked)
    message = str(caught.value)
    for line in (
        'prompt: "a" -> "b"',
        "method.keep: 0.5 -> 0.25",
        "seed: 0 -> (absent)",
        'dtype: (absent) -> "float16"',
    ):
        assert line in message
    assert "method.name" not in message
    assert "another results folder, or delete" in message
    assert (tmp_path / "m" / "records.jsonl").read_bytes() == before


def test_tuples_numpy_and_torch_values_compare_as_json_does(tmp_path):
    Manifest(tmp_path, {"layers": (1, 2), "n": np.int64(3), "dtype": torch.float16})
    Manifest(tmp_path, {"layers": [1, 2], "n": 3, "dtype": "float16"})
    with pytest.raises(TypeError, match=r"parameters\.f must be plain JSON, got a function"):
        Manifest(tmp_path, {"f": lambda: 0})


def test_another_environment_warns_when_records_are_continued_and_is_noted(tmp_path):
    def run(ids, torch_version):
        environment = {"versions": {"torch": torch_version}}
        with RecordFolder(tmp_path, {"a": 1}, run=environment) as store:
            store.append([record(i) for i in ids])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run([1], "2.11")
        run([2], "2.11")
        run([1, 2], "2.13")  # nothing to compute: no warning, no run
    with pytest.warns(UserWarning, match=r'versions\.torch: "2\.11" -> "2\.13"'):
        run([3], "2.13")
    runs = json.loads((tmp_path / "manifest.json").read_text())["runs"]
    assert [r["versions"]["torch"] for r in runs] == ["2.11", "2.11", "2.13"]


def test_records_without_a_manifest_and_a_damaged_manifest_are_refused(tmp_path):
    fill(tmp_path, [1])
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ManifestMismatch, match="is not a manifest"):
        RecordFolder(tmp_path, {"a": 1})
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ManifestMismatch, match=r"manifest\.json is missing"):
        RecordFolder(tmp_path, {"a": 1})


def test_the_places_of_methods_are_the_order_they_were_given_in(tmp_path):
    Manifest(tmp_path, {"methods": {"unpruned": {}, "tome": {"keep": 0.5}, "fastv": {}}})
    assert list(method_places(tmp_path).items()) == [("unpruned", 0), ("tome", 1), ("fastv", 2)]
    with pytest.raises(FileNotFoundError):
        method_places(tmp_path / "none")
