"""The doctor asks no network, and sees nothing of this machine's own data."""

import socket

import pytest

from lib.study import paths
from lib.study.doctor import Finding, machine, models, packages
from tests.study.doctor.kit import H200


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    def refuse(*args):
        raise AssertionError(f"the doctor tried to connect to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(models, "find_gpu", lambda: H200)
    monkeypatch.delenv("COCO_ROOT", raising=False)
    for check in (packages.check_packages, machine.check_java):
        check.cache_clear()


@pytest.fixture
def spared(monkeypatch):
    """METEOR is not started: seconds for each test."""
    monkeypatch.setattr(machine, "check_meteor", lambda: Finding("METEOR", True, "spared"))
