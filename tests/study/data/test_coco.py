"""Reading both JSON layouts from any COCO folder."""

import json

import pytest

from lib.study.data import coco
from lib.study.data.coco import Example, missing_images, read_coco_captions, read_karpathy
from tests.study.data.coco_kit import entry, put, write_json

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
