"""The committed model, and a copy of its folder to be broken."""

import shutil

import pytest

from lib.study.models import load
from lib.study.paths import embedded_dir


@pytest.fixture(scope="module")
def embedded():
    return load("embedded", device="cpu")


@pytest.fixture
def copy(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(embedded_dir(), folder)
    return folder
