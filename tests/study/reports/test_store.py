"""Stored arrays are computed once for one set of parameters, and whole or not at all."""

import numpy as np
import pytest

from lib.study.reports.store import stored_arrays


def test_other_parameters_are_computed_anew(tmp_path):
    path, calls = tmp_path / "deep" / "x.npz", []

    def compute():
        calls.append(1)
        return {"a": np.arange(len(calls))}

    for parameters, size in (({"k": 1}, 1), ({"k": 1}, 1), ({"k": 2}, 2), ({"k": 2}, 2)):
        assert len(stored_arrays(path, parameters, compute)["a"]) == size
    assert len(calls) == 2
    assert [p.name for p in path.parent.iterdir()] == ["x.npz"]


def test_the_stored_bytes_depend_on_content_alone(tmp_path):
    for name in ("one", "two"):
        stored_arrays(tmp_path / f"{name}.npz", {"k": 1}, lambda: {"a": np.ones(3)})
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(OSError, match=r"x\.npz is damaged .* delete it"):
        stored_arrays(tmp_path / "x.npz", {}, dict)


def test_a_failed_computation_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        stored_arrays(tmp_path / "x.npz", {}, lambda: {"a": 1 / 0})
    assert not list(tmp_path.iterdir())
