"""The words of the figures: each has them, and they are filled from what was computed."""

import re

import pytest

from lib.study.paths import ROOT
from lib.study.reports import captions
from lib.study.reports.captions import known, words


def test_words_are_filled_from_numbers():
    every = {"n": 200, "mean": 6.95, "sd": 3.47}
    said = words("figure2_clusters", tokens=256, clusters=32, alone=12, source="a scene", **every)
    assert said.title == "32 clusters of patches, 12 of a single one"
    assert said.caption.startswith("Figure 2. K-means of the 256 visual tokens into 32 clusters (a")
    assert said.caption.endswith("on 200 images 7.0 clusters hold one (sd 3.5).")
    assert "{" not in "".join(said) and "\n" not in said.caption


def test_missing_unused_and_unknown_are_named():
    with pytest.raises(
        ValueError, match=r"'figure2_clusters' of .* needs alone, mean, n, sd, tokens"
    ):
        words("figure2_clusters", clusters=32, source="s")
    with pytest.raises(ValueError, match="does not use colour"):
        words("walkthrough_gram", colour=3)
    with pytest.raises(ValueError, match="no figure 'figure9'; there are walkthrough_patches"):
        words("figure9")


def test_a_subject_may_be_unnamed(monkeypatch):
    monkeypatch.setattr(captions, "known", lambda: {"x": {"alt": "A picture."}})
    assert words("x", source="s") == ("", "", "A picture.")


def test_every_figure_of_the_notebooks_has_words_and_every_entry_a_figure():
    text = "".join(path.read_text() for path in (ROOT / "notebooks").glob("*.ipynb"))
    used = set(re.findall(r"\b(?:save|show)\([^\"]*?\\\"(\w+)\\\"", text))
    used |= set(re.findall(r"name = \\\"(figure\w+)\\\"", text))
    assert used == set(known())
    for name, parts in known().items():
        assert set(parts) <= {"title", "caption", "alt"} and len(parts["alt"]) > 20, name
