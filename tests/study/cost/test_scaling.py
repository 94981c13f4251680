"""The scaling measurement launches real processes and compares what they wrote."""

import contextlib
import io
import json
import subprocess
from types import SimpleNamespace

import pytest

from lib.study import cli, paths
from lib.study.cost import scaling
from lib.study.data.scenes import ensure_scenes

SMALL = ["scaling", "--device", "cpu", "--images", "6", "--batch-size", "2", "--new-tokens", "2",
         "--profile", "tiny"]  # fmt: skip
STORED = "build/reproduce/tiny/results/scaling.json"


@pytest.fixture
def root(monkeypatch, tmp_path):
    """A place of its own for results; the generated scenes are the checkout's."""
    listing = ensure_scenes("test", progress=False)
    (tmp_path / "data" / "raw").mkdir(parents=True)
    (tmp_path / "data" / "raw" / "scenes").symlink_to(listing.parent)
    (tmp_path / "data" / "embedded").symlink_to(paths.ROOT / "data" / "embedded")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def one_here(monkeypatch):
    """One process alone is this one, which has everything imported; several are launched."""

    def run(command, **options):
        if "accelerate.commands.launch" in command:
            return subprocess.run(command, **options)
        assert command[1:3] == ["-m", "lib"]
        assert options["env"]["ENTROPY_PRUNE_ROOT"] == str(paths.ROOT)
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = cli.main(command[3:])
        return SimpleNamespace(returncode=code, stdout="", stderr=said.getvalue())

    monkeypatch.setattr(scaling, "subprocess", SimpleNamespace(run=run))


def test_two_processes_write_what_one_writes(root, one_here, capsys):
    assert cli.main([*SMALL, "--processes", "1,2"]) == 0
    document = json.loads((root / STORED).read_text())
    one, two = document["rows"]
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["captions"] == two["captions"] == 6
    assert "ranks" not in one and [r["captions"] for r in two["ranks"]] == [4, 2]
    assert one["gain"] == 1 and two["gain"] == pytest.approx(
        two["images_per_second"] / one["images_per_second"]
    )
    assert one["same_records"] is None  # there is nothing to compare it with
    assert two["same_records"] and two["different_records"] == 0
    assert two["middle_images_per_second"] > 0
    assert two["seconds"] == max(r["seconds"] for r in two["ranks"])
    (merged,) = (root / "build" / "scaling" / "2-2").iterdir()
    assert sorted(path.name for path in merged.iterdir()) == ["manifest.json", "records.jsonl"]
    (written,) = json.loads((merged / "manifest.json").read_text())["runs"]
    assert written["processes"] == 2 and written["throughput"].keys() == {"rank 0", "rank 1"}
    assert capsys.readouterr().out.count("the same captions") == 1


def test_other_records_are_counted(root, monkeypatch, capsys):
    def run(processes, batch_size, options, folder, *, fast):
        captions = ["a", "b", "c" if processes == 1 or fast else "d"]
        records = [{"image_id": i, "caption": text} for i, text in enumerate(captions)]
        row = {"method": options.method, "processes": processes, "batch_size": batch_size,
               "images_per_second": 1.0 * processes * batch_size * (3 if fast else 1), "fast": fast,
               "middle_images_per_second": 1.0, "waiting_share": 0.0}  # fmt: skip
        return row, records

    monkeypatch.setattr(scaling, "run", run)
    options = ["--processes", "1,2,1", "--batch-size", "2,4", "--fast"]
    assert cli.main([*SMALL, *options]) == 0
    stored = (root / STORED).with_name("captioning.json")
    rows = json.loads(stored.read_text())["rows"]
    assert [row["batch_size"] for row in rows] == [2] * 6 + [4] * 6
    assert [row["fast"] for row in rows] == ([False] * 3 + [True] * 3) * 2
    assert [row["different_records"] for row in rows] == [None, 1, 0, None, 0, 0] * 2
    assert [row["same_records"] for row in rows] == [None, False, True, None, True, True] * 2
    gains = [1, 2, 1, 3, 6, 3]
    assert [row["gain"] for row in rows] == gains * 2, "over generate, at the same batch size"
    assert cli.main([*SMALL, "--processes", "1", "--batch-size", "4", "--fast"]) == 0
    kept = json.loads(stored.read_text())["rows"]
    assert [(row["batch_size"], row["gain"]) for row in kept] == [
        *((2, gain) for gain in gains), (4, 1), (4, 3),
    ]  # fmt: skip
    pruned = ["--processes", "1", "--batch-size", "4", "--fast", "--method", "random"]
    assert cli.main([*SMALL, *pruned]) == 0
    assert json.loads(stored.read_text())["rows"][:-2] == kept, "of another method"
    assert not (root / STORED).exists()
    assert "2 processes, batch 4: 8.00 images/s, 2.00 times" in (out := capsys.readouterr().out)
    assert "2 processes, batch 4, fast path: 24.00 images/s, 6.00 times" in out
    assert "1 OTHER captions" in out


def test_a_run_that_fails_says_why(root, one_here, capsys):
    assert cli.main([*SMALL, "--model", str(root / "nowhere"), "--processes", "1"]) == 1
    error = capsys.readouterr().err
    assert "1 processes failed" in error and "nowhere" in error


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--device", "cpu", "--processes", "0"], "--processes must be at least 1, got [0]"),
        (
            ["--device", "cpu", "--batch-size", "16,0"],
            "--batch-size must be at least 1, got [16, 0]",
        ),
        (["--processes", "512"], "512 processes need as many GPUs"),
    ],
)
def test_impossible_counts_are_refused(arguments, message, capsys):
    assert cli.main(["scaling", *arguments]) == 1
    assert message in capsys.readouterr().err
