"""A whole examination: each missing thing is seen and has a remedy."""

import doctest
import shutil

import pytest

from lib.study import cli, doctor, paths
from lib.study.data import COCO
from lib.study.doctor import Finding, models
from lib.study.paths import PACKAGE
from tests.study.doctor.kit import HUB, PAPER, coco_folder, find, hub_cache, model_folder

PROFILES = PACKAGE.parent / "notebooks" / "profiles"


@pytest.fixture
def profiles(tmp_path, spared):
    """The committed profiles, under the test's root."""
    shutil.copytree(PROFILES, tmp_path / "notebooks" / "profiles")


def test_the_embedded_profile_runs_with_its_weights_and_not_without(profiles, tmp_path, capsys):
    assert cli.main(["doctor", "--profile", "embedded"]) == 1
    page = capsys.readouterr().out
    assert "git checkout -- data/embedded" in page and "Not ready: 1 to do." in page
    model_folder(tmp_path / "data" / "embedded")
    assert cli.main(["doctor", "--profile", "embedded"]) == 0
    page = capsys.readouterr().out
    assert "Ready." in page and "To download: nothing" in page
    for item in ("checkout", "temporary", "terminal", "Java", "METEOR", "notebooks", "disk"):
        assert f"\n{item} " in page


def test_the_paper_profile_names_everything_it_lacks(profiles, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models, "find_gpu", lambda: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert cli.main(["doctor", "--profile", "paper", "--model", HUB]) == 1
    page = capsys.readouterr().out
    for part in (
        f"hf download {HUB} --revision b234b804b114d9e37bb655e11cbbb5f5e971b7a9  (14.13 GB)",
        "split: make data PROFILE=paper  (0.04 GB)",
        "images: make data PROFILE=paper  (0.82 GB)",
        "CUDA GPU",
        "To download: 14.99 GB",
        "Not ready: 4 to do.",
    ):
        assert part in page


def test_the_paper_profile_is_ready_with_model_data_and_gpu(spared, tmp_path, monkeypatch):
    monkeypatch.setenv("COCO_ROOT", str(coco_folder(tmp_path / "coco")))
    snapshot = hub_cache(tmp_path / "hub")
    findings = doctor.examine(PAPER, cache_dir=tmp_path / "hub")
    assert doctor.ready(findings), doctor.report(PAPER, findings)
    page = doctor.report(PAPER, findings)
    assert "To download: nothing" in page and "Ready." in page
    (tmp_path / "coco" / "val2014" / "COCO_val2014_000000000003.jpg").unlink()
    (snapshot / "two.safetensors").unlink()
    findings = doctor.examine(PAPER, cache_dir=tmp_path / "hub")
    images, model = find(findings, "images"), find(findings, "model")
    assert "1 of 8 are missing" in images.detail and "000000000003.jpg" in images.detail
    assert images.download == COCO.image_bytes and images.remedy == "make data PROFILE=paper"
    assert "two.safetensors is missing" in model.detail
    one = (snapshot / "one.safetensors").stat().st_size
    assert model.download == models.WEIGHTS[HUB].size - one
    assert not doctor.ready(findings)


def test_all_profiles_are_examined_the_most_demanding_one_last(profiles, monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda profile: [Finding("x", True, profile.model)])
    examined = doctor.examine_all()
    assert next(iter(examined)) == "embedded" and list(examined)[-1] == "paper"
    assert set(examined) == {path.stem for path in PROFILES.glob("[a-z]*.yaml")}


def test_a_profile_that_does_not_exist_is_one_line(profiles, capsys):
    assert cli.main(["doctor", "--profile", "nope"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: no profile 'nope'; there are ") and said.count("\n") == 1
    (paths.profiles_dir() / "odd.yaml").write_text("profile: odd\nlimit: many\n")
    assert cli.main(["doctor"]) == 1
    assert "odd.yaml: limit" in capsys.readouterr().err


def test_the_examples_in_the_docstrings():
    assert doctest.testmod(models).failed == 0
