"""A file is written whole or not at all, and errors of the system name it."""

import errno
import json
import os

import numpy as np
import pytest

from lib.study.files import entry, naming, write_atomically, write_json


def test_text_and_bytes_arrive_as_they_are(tmp_path):
    write_atomically(tmp_path / "a" / "x.txt", "naïve\nlines\r\n")
    assert (tmp_path / "a" / "x.txt").read_bytes() == "naïve\nlines\r\n".encode()
    write_atomically(tmp_path / "a" / "x.txt", b"\0\xff")
    assert (tmp_path / "a" / "x.txt").read_bytes() == b"\0\xff"
    write_atomically(tmp_path / "a" / "x.txt", lambda file: np.save(file, np.arange(3)))
    assert np.load(tmp_path / "a" / "x.txt").tolist() == [0, 1, 2]
    write_json(tmp_path / "x.json", {"a": "é"})
    assert (tmp_path / "x.json").read_text() == '{"a":"é"}\n'


@pytest.mark.parametrize(
    "text, found",
    [('{"key": "x"}', "x"), ('{"other": 1}', None), ('{"key": "x', None), ("[1]", None),
     ("3", None), (None, None)],
)  # fmt: skip
def test_an_entry_is_none_where_the_file_is_no_whole_object_that_has_it(tmp_path, text, found):
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text)
    assert entry(path, "key") == found


@pytest.mark.parametrize(
    "document",
    [{}, [], {"a": [1.5, None, True], "b": {"c": [], "d": {"e": "{,}"}}}, [[1, 2], [{"x": [3]}]],
     {"a": {1: [0.1], "é\n": {}}}, 3.25],
)  # fmt: skip
def test_what_holds_nothing_nested_is_one_line_of_json(tmp_path, document):
    write_json(tmp_path / "x.json", document)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == json.loads(json.dumps(document))
    for line in text.splitlines():
        assert len(line) - len(line.lstrip()) < 5
    nested = isinstance(document, dict | list) and any(
        isinstance(x, dict | list)
        for x in (document.values() if isinstance(document, dict) else document)
    )
    assert (text.count("\n") > 1) == nested


def test_an_atomic_write_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_atomically(path, "old")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_writer_that_fails_half_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.pt"
    write_atomically(path, b"old")

    def fail(file):
        file.write(b"new, but not all of it")
        raise ValueError("cannot be stored")

    with pytest.raises(ValueError, match="cannot be stored"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


def test_a_full_disk_names_the_file(tmp_path):
    full = pytest.raises(OSError, match=r"No space left on device.*records\.jsonl")
    with full, naming(tmp_path / "records.jsonl"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
