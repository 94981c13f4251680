"""Outer data has no type until checked: null, other types, half characters."""

import json

import pytest

from lib.study.data import read_coco_captions, read_karpathy
from tests.study.data.test_coco import captions_json, entry, put, write_json

KARPATHY = entry(1, sentences=[{"raw": "a dog"}, {"raw": "two dogs"}])


def karpathy(path, *images):
    return read_karpathy(write_json(path / "d.json", list(images)), "test", check_files=False)


def coco(path, images, annotations):
    document = {"images": images, "annotations": annotations}
    put(path / "captions_val2014.json", json.dumps(document).encode())
    return read_coco_captions(path / "captions_val2014.json", path, check_files=False)


@pytest.mark.parametrize(
    "sentences",
    [
        [{"raw": None}, {"raw": "a dog"}],
        [{"raw": " "}, {"raw": "a dog"}],
        [{}, {"raw": "a dog"}],
        [None, {"raw": "a dog", "tokens": None}],
    ],
)
def test_a_null_is_dropped_aloud(tmp_path, sentences):
    with pytest.warns(UserWarning, match=r"dropped blank captions of .*000000000001\.jpg"):
        (example,) = karpathy(tmp_path, KARPATHY | {"sentences": sentences})
    assert example.references == ("a dog",)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"sentences": None}, r"no reference captions for val2014/COCO_val2014_000000000001\.jpg"),
        ({"sentences": "a dog"}, r'000000000001\.jpg": `sentences` is "a dog", not a list'),
        ({"sentences": ["a dog"]}, r'000000000001\.jpg": a sentence is "a dog", not an object'),
        ({"sentences": [{"raw": 3}]}, r'000000000001\.jpg": `raw` is 3, not text'),
        ({"sentences": [{"raw": "dog \ud83d"}]}, r"half a character \(a lone surrogate\) in"),
        ({"filename": "\ud83d.jpg"}, "half a character"),
        ({"note": ["\udc00"]}, "half a character"),
        ({"filename": None}, "lacks `filename`"),
        ({"filename": 3}, "`filename` is 3, not text"),
        ({"cocoid": None, "imgid": None}, "lacks `filename` or `cocoid`/`imgid`"),
        ({"cocoid": "1"}, '`cocoid` is "1", not a whole number'),
        ({"cocoid": True}, "`cocoid` is true, not a whole number"),
        ({"cocoid": 1.0}, "`cocoid` is 1.0, not a whole number"),
        ({"cocoid": 2**63}, "beyond 64 bits"),
        ({"filepath": ["val2014"]}, "`filepath` is .*, not text"),
        ({"split": ["test"]}, "`split` is .*, not text"),
    ],
)
def test_an_unusable_entry_names_file_and_image(tmp_path, change, says):
    with pytest.raises(ValueError, match=says) as error:
        karpathy(tmp_path, entry(2), KARPATHY | change)
    assert str(tmp_path / "d.json") in str(error.value) and "\n" not in str(error.value)


def test_a_null_beside_a_value_is_not_there(tmp_path):
    odd = KARPATHY | {"filepath": None, "cocoid": None, "imgid": 7, "objects": None}
    (example,) = karpathy(tmp_path, odd)
    assert example.image_id == 7 and example.path == tmp_path / KARPATHY["filename"]
    assert example.extra == {"objects": None}


@pytest.mark.parametrize("image", [None, "a.jpg", 3, ["a.jpg"]])
def test_an_image_that_is_no_object(tmp_path, image):
    with pytest.raises(ValueError, match=r"d\.json: `images` holds .* at 1, not an object"):
        karpathy(tmp_path, KARPATHY, image)


@pytest.mark.parametrize(
    "annotations, says",
    [
        (None, "`annotations` is null, not a list"),
        ({}, "`annotations` is {}, not a list"),
        ([None], "`annotations` holds null at 0"),
        ([{"caption": "x"}], "an annotation lacks `image_id`"),
        ([{"caption": "x", "image_id": None}], "an annotation lacks `image_id`"),
        ([{"caption": "x", "image_id": [1]}], r"`image_id` is \[1\], not a whole number"),
        ([{"caption": 5, "image_id": 1}], "image_id 1: `caption` is 5, not text"),
        ([{"caption": None, "image_id": 1}], r"no reference captions for val2014/a\.jpg"),
        ([{"caption": "\udfff", "image_id": 1}], r'file_name "a\.jpg": half a character'),
    ],
)
def test_coco_s_own_captions_are_checked_alike(tmp_path, annotations, says):
    with pytest.raises(ValueError, match=says) as error:
        coco(tmp_path, [{"id": 1, "file_name": "a.jpg"}], annotations)
    assert "captions_val2014.json" in str(error.value)


@pytest.mark.parametrize(
    "image", [{"id": None, "file_name": "a.jpg"}, {"id": 1}, {"id": "1"}, None]
)
def test_coco_s_images_are_checked(tmp_path, image):
    with pytest.raises(ValueError, match=r"captions_val2014\.json"):
        coco(tmp_path, [image], [])


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b'{"images": [1',
        b"[" * 200_000,
        b'{"images": [{"cocoid": 1' + b"0" * 9999 + b"}]}",
    ],
    ids=["no UTF-8", "cut", "deep", "long number"],
)
def test_what_is_no_json_is_said_to_be_none(tmp_path, content):
    put(tmp_path / "d.json", content)
    with pytest.raises(ValueError, match=r"d\.json is not valid JSON"):
        read_karpathy(tmp_path / "d.json", "test")


def test_a_byte_order_mark_is_no_trouble(tmp_path):
    text = json.dumps({"images": [KARPATHY]})
    put(tmp_path / "d.json", b"\xef\xbb\xbf" + text.encode())
    assert len(read_karpathy(tmp_path / "d.json", "test", check_files=False)) == 1


def test_an_address_of_null_is_none(tmp_path):
    path = captions_json(tmp_path / "my.json", {9: "000000000009.jpg"}, coco_url=None)
    assert read_coco_captions(path, tmp_path, check_files=False)[0].image_id == 9
