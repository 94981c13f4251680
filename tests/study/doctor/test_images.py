"""Splits and images that are there, missing, or not as they should be; SPICE's jars."""

from dataclasses import replace

from lib.study.data import COCO
from lib.study.doctor.images import check_images, check_spice
from lib.study.evaluation import corenlp
from tests.study.doctor.kit import EMBEDDED, PAPER, coco_folder, find


def test_scenes_need_nothing():
    (finding,) = check_images(EMBEDDED)
    assert finding.good and "drawn on first use" in finding.detail


def test_coco_settings_that_cannot_work_are_not_blamed_on_the_file(tmp_path):
    folder = coco_folder(tmp_path / "coco")
    profile = replace(PAPER, json_path=str(folder / "dataset_coco.json"), image_root=str(folder))
    assert [f.good for f in check_images(profile)] == [True, True]
    (finding,) = check_images(replace(profile, split="exam"))
    assert "no split 'exam'" in finding.detail and "the profile" in finding.remedy
    (folder / "dataset_coco.json").write_text("{")
    (finding,) = check_images(profile)
    assert finding.remedy.startswith("rm ") and "make data" in finding.remedy


def test_a_file_of_one_s_own_is_not_downloaded(tmp_path):
    own = replace(EMBEDDED, json_path=str(tmp_path / "mine.json"))
    (finding,) = check_images(own)
    assert "mine.json is absent" in finding.detail and not finding.download
    folder = coco_folder(tmp_path)
    mine = replace(own, json_path=str(folder / "dataset_coco.json"))
    assert [f.good for f in check_images(mine)] == [True, True]
    (folder / "dataset_coco.json").write_text('{"images": [null]}')
    (finding,) = check_images(mine)
    assert "holds null" in finding.detail and finding.remedy == "correct the file, or the profile"


def test_a_limit_lowers_what_would_be_downloaded():
    whole, some = check_images(PAPER), check_images(replace(PAPER, limit=100))
    assert find(whole, "images").download == 5000 * COCO.image_bytes
    assert find(some, "images").download == 100 * COCO.image_bytes
    assert find(whole, "split").download == COCO.archive.size
    assert find(whole, "split").unpacked == COCO.archive.unpacked > 1e8


def test_spice_is_optional(monkeypatch):
    absent = corenlp.CoreNLPStatus(False, None, corenlp.JARS)
    monkeypatch.setattr(corenlp, "corenlp_status", lambda: absent)
    found = check_spice()
    assert found.mark == "optional" and found.remedy == "make spice" and found.download > 1e8
    monkeypatch.setattr(corenlp, "corenlp_status", lambda: absent._replace(installed=True))
    assert check_spice().mark == "ok"
