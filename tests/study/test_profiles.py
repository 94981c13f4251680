"""Profiles are read in one place, and a wrong entry is named with its file."""

import shutil
from dataclasses import replace

import pytest

from lib.study import paths
from lib.study.profiles import load_profile, profile_names, profile_of
from tests.tiny_study import PROFILE

PROFILES = sorted(paths.profiles_dir().glob("[a-z]*.yaml"))


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes the tiny profile with one line changed or added."""
    folder = tmp_path / "notebooks" / "profiles"
    folder.mkdir(parents=True)
    monkeypatch.setattr(paths, "ROOT", tmp_path)

    def with_line(line):
        key = line.split(":")[0]
        kept = [text for text in PROFILE.splitlines() if not text.startswith(f"{key}:")]
        (folder / "tiny.yaml").write_text("\n".join([*kept, line]))

    return with_line


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_profile_file_is_a_profile(path):
    profile = load_profile(path.stem)
    assert profile.profile == path.stem and profile.description
    assert profile.ablation_limit <= (profile.limit or profile.ablation_limit)
    assert profile.few == profile.ablation_limit


def test_the_default_profile_is_the_embedded_one():
    assert load_profile("embedded").model == "embedded"
    assert "embedded" in profile_names() and "_train_smoke" not in profile_names()


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("kep: 0.5", "unknown entries 'kep'"),
        ("keep: 1.5", "keep: Input should be less than or equal to 1, got 1.5"),
        ("keep: '0.5'", "keep: Input should be a valid number, got '0.5'"),
        ("limit: '5'", "limit: Input should be a valid integer, got '5'"),
        ("limit: true", "limit: Input should be a valid integer, got True"),
        ("limit: 0", "limit: Input should be greater than or equal to 1, got 0"),
        ("sweep: [0.5, 0]", "sweep: must hold keep rates in (0, 1], got [0.5, 0.0]"),
        ("sweep: 0.5", "sweep: Input should be a valid tuple, got 0.5"),
        ("batch_size: 0", "batch_size: Input should be greater than or equal to 1"),
        ("dtype: float12", "dtype: Input should be 'float32', 'float16' or 'bfloat16'"),
        ("efficiency: {repeat: 2}", "efficiency.repeat: Unexpected keyword argument"),
        ("efficiency: {repeats: many}", "efficiency.repeats: Input should be a valid integer"),
        ("efficiency: fast", "efficiency: Input should be an instance of Efficiency"),
        ("model: 'shape:tiny'", "has random weights: say 'random_weights: true'"),
        ("profile: other", "must say 'profile: tiny', got 'other'"),
        ("keep: [", "is not YAML"),
    ],
)
def test_a_wrong_entry_is_named_with_its_file(write, line, complaint):
    write(line)
    with pytest.raises(ValueError) as caught:
        load_profile("tiny")
    assert complaint in str(caught.value) and "tiny.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_right_is_read_as_it_is(write):
    write("keep: 1")
    assert load_profile("tiny").keep == 1.0
    write("limit: null")
    profile = load_profile("tiny")
    assert profile.limit is None and profile.few == 2
    assert profile.sweep == (0.5,) and profile.efficiency.batches == (1,)
    assert replace(profile, limit=1).few == 1
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        replace(profile, limit=0)


def test_no_file_and_no_mapping(write, tmp_path):
    write("keep: 1")
    with pytest.raises(ValueError, match="no profile 'nope'; there are tiny"):
        load_profile("nope")
    with pytest.raises(ValueError, match="plain folder name"):
        load_profile("../tiny")
    (tmp_path / "notebooks" / "profiles" / "tiny.yaml").write_text("- keep\n")
    with pytest.raises(ValueError, match="is not a mapping"):
        load_profile("tiny")


def test_a_notebook_gets_the_entries_it_has():
    profile = load_profile("embedded")
    assert profile.parameters(["profile", "model", "image", "sweep"]) == {
        "profile": "embedded", "model": "embedded", "image": 15, "sweep": [0.125, 0.25, 0.5, 0.75],
    }  # fmt: skip
    assert profile.parameters(["data"]) == {}
    own = replace(profile, json_path="mine.json")
    assert own.parameters(["data", "json_path"]) == {"data": "mine.json", "json_path": "mine.json"}


@pytest.mark.parametrize(
    "model, coco",
    [("llava-hf/llava-1.5-7b-hf", True), ("embedded", False), ("./a/b", False), ("a/b/c", False)],
)
def test_models_of_the_hub_caption_coco(model, coco):
    assert replace(load_profile("embedded"), model=model).on_coco == coco


def test_a_folder_is_no_model_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not replace(load_profile("embedded"), model="owner/name").on_coco
    shutil.rmtree(tmp_path / "owner")
    assert replace(load_profile("embedded"), model="owner/name").on_coco


def test_what_differs_on_a_cpu_is_checked_as_the_rest():
    whole = profile_of({"profile": "p", "limit": 1000, "cpu": {"limit": 10, "keep": 0.25}}, "p")
    small = whole.on_cpu()
    assert (small.limit, small.keep, small.cpu) == (10, 0.25, {})
    assert replace(small, limit=1000, keep=0.5, cpu=whole.cpu) == whole
    with pytest.raises(ValueError, match=r"profile 'p', cpu has unknown entries 'limits'"):
        replace(whole, cpu={"limits": 3}).on_cpu()
    with pytest.raises(ValueError, match=r"profile 'p', cpu: limit: .* got 0"):
        replace(whole, cpu={"limit": 0}).on_cpu()


def test_a_data_set_may_be_named():
    assert load_profile("photos").images_of == "flickr8k"
    assert load_profile("paper").images_of == "coco" and load_profile("paper").on_coco
    assert load_profile("embedded").images_of == "scenes"
    with pytest.raises(ValueError, match="dataset"):
        profile_of({"profile": "p", "dataset": "flickr"}, "p")
