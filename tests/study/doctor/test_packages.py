"""Packages within their bounds; differences from the lock are told."""

import json

import torch

from lib.study.doctor import packages


def checkout(tmp_path, monkeypatch, dependencies, lock=None):
    monkeypatch.setattr(packages, "CHECKOUT", tmp_path / "checkout")
    (tmp_path / "checkout").mkdir()
    text = (
        f"[project]\nname = 'x'\ndependencies = {json.dumps(dependencies[:1])}\n"
        f"optional-dependencies.study = {json.dumps(dependencies[1:])}\n"
    )
    (tmp_path / "checkout" / "pyproject.toml").write_text(text)
    if lock is not None:
        (tmp_path / "checkout" / "requirements.lock").write_text(lock)
    return packages.check_packages()


def test_packages_that_are_absent_or_too_old_are_named(tmp_path, monkeypatch):
    needs = ["torch>=2.11", "no-such-package>=1", "numpy>=99", "other>=1; python_version<'3'"]
    found = checkout(tmp_path, monkeypatch, needs)
    assert not found.good and found.remedy == "make setup"
    assert "no-such-package is absent" in found.detail and "needs >=99" in found.detail
    assert "torch" not in found.detail and "other" not in found.detail


def test_differences_from_the_lock_are_told_but_do_not_fail(tmp_path, monkeypatch):
    version = torch.__version__.split("+")[0]
    lock = f"# written by make lock\ntorch=={version}\nnumpy==0.1\nabsent-one==2.0\n"
    found = checkout(tmp_path, monkeypatch, ["torch>=2"], lock)
    assert found.good and found.detail.startswith("1 of 3 as locked; differing: numpy")
    assert "absent-one absent (lock: 2.0)" in found.detail


def test_no_lock_is_no_problem(tmp_path, monkeypatch):
    assert "no requirements.lock" in checkout(tmp_path, monkeypatch, ["torch>=2"]).detail


def test_this_python_will_do():
    assert packages.check_python().good
