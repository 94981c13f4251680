"""Backgrounds: the published bytes, and a warning where a decoder gives other ones."""

import pytest

from lib.study.data.scenes import Scene, draw, grounds


def test_a_photograph_with_other_pixels_is_reported(monkeypatch):
    monkeypatch.setattr(grounds, "PHOTOGRAPHS", {"china.jpg": "0" * 16})
    grounds.photograph.cache_clear()
    with pytest.warns(UserWarning, match="china.jpg decodes to other pixels"):
        grounds.photograph("china.jpg")
    grounds.photograph.cache_clear()


def test_photographs_are_scikit_learn_s():
    datasets = pytest.importorskip("sklearn.datasets")
    for name in grounds.PHOTOGRAPHS:
        assert (grounds.photograph(name) == datasets.load_sample_image(name)).all()


def test_without_scikit_learn_its_photographs_are_named(monkeypatch):
    monkeypatch.setattr(grounds.importlib.util, "find_spec", lambda _: None)
    grounds.photograph.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r"china\.jpg belongs to scikit-learn"):
        grounds.photograph("china.jpg")
    grounds.photograph.cache_clear()


def test_an_unknown_background_is_named():
    with pytest.raises(ValueError, match="unknown background 'moonscape': use one of plain"):
        draw(Scene(0, "moonscape", ()))
