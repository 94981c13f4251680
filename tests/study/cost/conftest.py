"""The model benchmark on a tiny model, in a checkout of its own."""

import pytest

from lib.study import paths
from lib.study.cost import benchmark
from lib.study.models import Loaded
from tests.tiny import tiny_llava


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    model = tiny_llava()
    monkeypatch.setattr(benchmark, "load", lambda name, **_: Loaded(model, None, name))
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return model
