"""A path from a file stays inside its folder: in the name, and behind symbolic links."""

import os

import pytest

from lib.study.data import read_karpathy
from tests.study.data.test_captions import KARPATHY, coco, karpathy
from tests.study.data.test_coco import put, write_json

OUTSIDE = [
    "../x.jpg",
    "a/../../x.jpg",
    "..",
    "/etc/passwd",
    "C:x.jpg",
    "c:/x.jpg",
    "a\\..\\x.jpg",
    "\\\\host\\share\\x.jpg",
    "x\0.jpg",
    "a\nb.jpg",
    "",
    ".",
    "//host/x.jpg",
]


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
