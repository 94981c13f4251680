"""Outer data has no type until checked: null, other types, half characters, paths that lead out."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib.study.data import Example, read_coco_captions, read_karpathy
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


# ------------------------------------------------------------------------------------ any document

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=6)
    | st.sampled_from(["test", "\ud800", "a.jpg", "../a.jpg", "/a.jpg", "C:\\a.jpg"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["raw", "tokens"]), inner, max_size=2),
    max_leaves=6,
)  # fmt: skip
images = st.lists(
    st.fixed_dictionaries(
        {"split": st.just("test") | values},
        optional={
            "filename": st.just("a.jpg") | values,
            "filepath": st.just("val2014") | values,
            "cocoid": st.integers(0, 9) | values,
            "imgid": values,
            "sentences": st.lists(
                st.fixed_dictionaries({"raw": st.just("a dog") | values}), max_size=2
            )
            | values,
            "objects": values,
        },
    )
    | values,
    max_size=3,
)
ANY = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.filterwarnings("ignore:.*dropped blank captions")
@ANY
@given(images)
def test_any_document_is_read_or_refused_by_name(tmp_path, images):
    path = put(tmp_path / "d.json", json.dumps({"images": images}).encode())
    try:
        examples = read_karpathy(path, "test", check_files=False)
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    for example in examples:
        assert isinstance(example, Example) and isinstance(example.image_id, int)
        assert example.references and all(t.strip() == t for t in example.references)
        "".join(example.references).encode()
        assert tmp_path in example.path.parents and ".." not in example.path.parts


@pytest.mark.filterwarnings("ignore:.*dropped blank captions")
@ANY
@given(
    st.lists(st.fixed_dictionaries({}, optional={"id": st.integers(0, 3) | values,
                                                 "file_name": st.just("a.jpg") | values})),
    st.lists(st.fixed_dictionaries({"caption": st.just("a dog") | values},
                                   optional={"image_id": st.integers(0, 3) | values})) | values,
)  # fmt: skip
def test_any_document_of_coco_s_is_read_or_refused_by_name(tmp_path, images, annotations):
    try:
        examples = coco(tmp_path, images, annotations)
    except ValueError as error:
        assert "captions_val2014.json" in str(error) and "\n" not in str(error)
        return
    assert all(isinstance(example, Example) and example.references for example in examples)


# --------------------------------------------------------------------------- paths from a file

OUTSIDE = [
    "../x.jpg", "a/../../x.jpg", "..", "/etc/passwd", "C:x.jpg", "c:/x.jpg", "a\\..\\x.jpg",
    "\\\\host\\share\\x.jpg", "x\0.jpg", "a\nb.jpg", "", ".", "//host/x.jpg",
]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("key", ["filename", "filepath"])
def test_a_path_from_a_file_stays_inside_its_folder(tmp_path, name, key):
    if key == "filepath" and name in ("", "."):
        return  # the folder itself
    with pytest.raises(ValueError, match=r"d\.json: .* the file name"):
        karpathy(tmp_path, KARPATHY | {key: name})
    if key == "filename":
        with pytest.raises(ValueError, match=r"captions_val2014\.json: .* the file name"):
            coco(tmp_path, [{"id": 1, "file_name": name}], [{"image_id": 1, "caption": "x"}])


@pytest.mark.parametrize(
    "name", ["a.jpg", "sub/a.jpg", "..a.jpg", "a..b.jpg", "ü ñ/日本 1.jpg", "~a"]
)
def test_ordinary_names_pass(tmp_path, name):
    there = put(tmp_path / "val2014" / name)
    path = write_json(tmp_path / "d.json", [KARPATHY | {"filename": name}])
    assert read_karpathy(path, "test")[0].path == there


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    put(tmp_path / "secret" / KARPATHY["filename"])
    root = tmp_path / "coco"
    path = write_json(root / "d.json", [KARPATHY])
    (root / "val2014").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"leads out of its folder, to .*secret.* COCO_ROOT"):
        read_karpathy(path, "test")
    os.unlink(root / "val2014")
    (root / "val2014").mkdir()
    (root / "val2014" / KARPATHY["filename"]).symlink_to(tmp_path / "secret" / KARPATHY["filename"])
    with pytest.raises(ValueError, match="leads out of its folder"):
        read_karpathy(path, "test")


def test_links_within_the_folder_and_to_it_are_followed(tmp_path):
    put(tmp_path / "coco" / "elsewhere" / KARPATHY["filename"])
    path = write_json(tmp_path / "coco" / "d.json", [KARPATHY])
    (tmp_path / "coco" / "val2014").symlink_to(tmp_path / "coco" / "elsewhere")
    (tmp_path / "link").symlink_to(tmp_path / "coco")
    (example,) = read_karpathy(path, "test", image_root=tmp_path / "link")
    assert example.path == tmp_path / "link" / "val2014" / KARPATHY["filename"]


def test_the_scenes_and_coco_s_names_are_plain(tmp_path):
    path = captions_json(tmp_path / "my.json", {9: "000000000009.jpg"}, coco_url=None)
    assert read_coco_captions(path, tmp_path, check_files=False)[0].image_id == 9
