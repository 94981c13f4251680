"""The scaling measurement launches real processes and compares what they wrote."""

import json

import pytest

from lib import paths, scaling
from lib.scenes import ensure_scenes

SMALL = ["--cpu", "--images", "6", "--batch-size", "2", "--new-tokens", "2", "--profile", "tiny"]


@pytest.fixture
def root(monkeypatch, tmp_path):
    """A place of its own for results; the generated scenes are the checkout's."""
    listing = ensure_scenes("test", progress=False)
    (tmp_path / "data" / "raw").mkdir(parents=True)
    (tmp_path / "data" / "raw" / "scenes").symlink_to(listing.parent)
    (tmp_path / "data" / "embedded").symlink_to(paths.ROOT / "data" / "embedded")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return tmp_path


def test_two_processes_write_what_one_writes(root, capsys):
    assert scaling.main([*SMALL, "--processes", "1", "2"]) == 0
    document = json.loads((root / "data/results/tiny/scaling.json").read_text())
    one, two = document["rows"]
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["captions"] == two["captions"] == 6
    assert len(one["ranks"]) == 1 and [r["captions"] for r in two["ranks"]] == [4, 2]
    assert one["gain"] == 1 and two["gain"] == pytest.approx(
        two["images_per_second"] / one["images_per_second"]
    )
    assert one["same_records"] and two["same_records"]
    assert one["different_records"] == two["different_records"] == 0
    assert two["middle_images_per_second"] > 0
    assert two["seconds"] == max(r["seconds"] for r in two["ranks"])
    assert capsys.readouterr().out.count("the same captions") == 2


def test_other_records_are_counted(root, monkeypatch, capsys):
    def run(processes, options, folder):
        captions = ["a", "b", "c" if processes == 1 else "d"]
        records = [{"image_id": i, "caption": text} for i, text in enumerate(captions)]
        row = {"processes": processes, "images_per_second": 1.0 * processes,
               "middle_images_per_second": 1.0, "waiting_share": 0.0}  # fmt: skip
        return row, records

    monkeypatch.setattr(scaling, "run", run)
    assert scaling.main([*SMALL, "--processes", "1", "2", "1"]) == 0
    rows = json.loads((root / "data/results/tiny/scaling.json").read_text())["rows"]
    assert [row["different_records"] for row in rows] == [0, 1, 0]
    assert [row["same_records"] for row in rows] == [True, False, True]
    assert "1 OTHER captions" in capsys.readouterr().out


def test_a_run_that_fails_says_why(root, capsys):
    assert scaling.main([*SMALL, "--model", str(root / "nowhere"), "--processes", "1"]) == 1
    error = capsys.readouterr().err
    assert "1 processes failed" in error and "nowhere" in error


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--cpu", "--processes", "0"], "must be at least 1, got 0"),
        (["--processes", "512"], "512 processes need as many GPUs"),
    ],
)
def test_impossible_counts_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        scaling.main(arguments)
    assert message in capsys.readouterr().err
