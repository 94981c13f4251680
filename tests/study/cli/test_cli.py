"""One command line: an error is one line, an interruption too, and help is quick."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from lib.study import cli, examples, paths
from lib.study.paths import ROOT
from lib.study.records import ManifestMismatch
from lib.study.reports import report
from tests import tiny_study

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
COMMANDS = {
    "study", "reproduce", "data", "compare", "publish", "caption", "benchmark", "scaling",
    "choices", "bench",
    "trials", "doctor", "spice", "report",
}  # fmt: skip


def test_help_names_every_command(capsys):
    assert cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert set(re.findall(r"^  ([a-z]+)  ", said, re.MULTILINE)) == COMMANDS


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command, capsys):
    assert cli.main([command, "--help"]) == 0
    assert "Usage:" in capsys.readouterr().out


def test_help_waits_for_no_model():
    code = (
        "import sys; import lib; before = 'torch' in sys.modules; import lib.study.cli; "
        "print(before or 'torch' not in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True
    ).stdout
    assert said.strip() == "True"


@pytest.mark.parametrize("arguments", [["nope"], ["study", "--nope"], ["study", "--workers", "0"]])
def test_wrong_use_is_one_line(arguments, capsys):
    assert cli.main(arguments) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and not said.out


def noted():
    error = RuntimeError("it broke")
    error.add_note("Call again.")
    return error


@pytest.mark.parametrize(
    "error, line",
    [
        (ValueError("no such thing"), "error: no such thing"),
        (
            ManifestMismatch("m.json was made with:\n  a: 1 -> 2\n  b: 3 -> 4\nDelete it."),
            "error: m.json was made with: a: 1 -> 2; b: 3 -> 4 Delete it.",
        ),
        (noted(), "error: it broke Call again."),
        (
            OSError(errno.EROFS, os.strerror(errno.EROFS), "/x/y"),
            "error: [Errno 30] Read-only file system: '/x/y'",
        ),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/y"),
            "error: the disk is full: [Errno 28] No space left on device: '/x/y'. "
            "All that was recorded is kept.",
        ),
        (PermissionError(13, "No rights", "/x"), "error: [Errno 13] No rights: '/x'"),
    ],
)  # fmt: skip
def test_an_error_is_one_line(error, line, monkeypatch, capsys):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(examples, "fetch", fail)
    assert cli.main(["data"]) == 1
    assert capsys.readouterr().err == line + "\n"
    monkeypatch.setenv(cli.TRACEBACK, "1")
    assert cli.main(["data"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_fault_of_the_program_shows_where(monkeypatch):
    monkeypatch.setattr(examples, "fetch", lambda *_, **__: {}["nope"])
    with pytest.raises(KeyError):
        cli.main(["data"])


def test_an_interruption_is_one_line(monkeypatch, capsys):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(examples, "fetch", fail)
    assert cli.main(["data"]) == 130
    assert capsys.readouterr().err == "interrupted: all that was recorded is kept\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_study.make_root(tmp_path_factory.mktemp("root"))


#: a study that shares however few captions there are
SHARING = """
import sys
from lib.study.cli import main
from lib.study.stages import sharing
sharing.WORTH_SHARING = 1
sys.exit(main())
"""


def start(root, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", SHARING, *arguments], cwd=ROOT, text=True, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, env=ENVIRONMENT | {"ENTROPY_PRUNE_ROOT": str(root)},
        start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_ends_a_study_in_one_line_and_it_continues(root, workers, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", root)
    options = ["--profile", "tiny", "--quiet", "--device", "cpu", "--workers", workers]
    results = paths.run("tiny").results
    shutil.rmtree(results, ignore_errors=True)
    process = start(root, "study", *options)
    while process.poll() is None and not list(results.glob("*/*/*.jsonl")):
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if "interrupted" in line]
    assert lines == ["interrupted: all that was recorded is kept"], said
    if workers == "2":
        assert cli.main(["study", *options, "--stages", "captions"]) == 0


def test_a_folder_that_cannot_be_made_is_one_line(root, tmp_path, monkeypatch, capsys):
    (tmp_path / "build").write_text("a file in the way")
    for name in ("data", "notebooks"):
        (tmp_path / name).symlink_to(root / name)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert cli.main(["study", "--profile", "tiny", "--quiet", "--device", "cpu"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and "build" in error


def test_a_reader_that_has_seen_enough_is_no_error(root):
    process = subprocess.run(
        f"{sys.executable} -m lib --help | head -1", shell=True, cwd=ROOT, text=True,
        capture_output=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert process.stderr == "" and "Usage" in process.stdout


def test_notebooks_that_fail_are_named_when_the_others_have_run(tmp_path, monkeypatch):
    ran = []

    def run_one(notebook, profile, *, progress, forked):
        ran.append((notebook.name, profile, progress, os.environ["OMP_NUM_THREADS"]))
        if notebook.name == "b":
            raise report.NotebookFailed("b failed in cell 3")
        return notebook

    monkeypatch.setattr(report, "run", run_one)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    notebooks = [tmp_path / name for name in "abc"]
    with pytest.raises(RuntimeError, match="b failed in cell 3"):
        report.run_all("tiny", notebooks, jobs=1, progress=False)
    assert ran == [(name, "tiny", False, "8") for name in "abc"]
    del notebooks[1], ran[:]
    assert report.run_all("tiny", notebooks, jobs=2, progress=False) == notebooks
    assert {cores for *_, cores in ran} == {"4"} and "OMP_NUM_THREADS" not in os.environ
