"""Figures are drawn by the notebooks' code without a kernel."""

import pytest

from lib.study import paths
from lib.study.reports import captions
from lib.study.reports.drawing import draw
from lib.study.reports.notebooks import NotebookFailed


def test_the_code_of_every_notebook_runs_with_the_profile(bare, notebook, monkeypatch):
    monkeypatch.setattr(captions, "known", lambda: {"figure1": {"alt": "Keep {keep}."}})
    notebook(
        bare / "notebooks" / "01_draws.ipynb", 'profile = "embedded"\nkeep = 1',
        "from lib.study.reports.plots import save\n"
        "from lib.study.reports.plots.style import subplots\n"
        "fig, ax = subplots(figsize=(2, 2))\nsave(fig, 'figure1', profile, keep=keep)",
        tags=["parameters"],
    )  # fmt: skip
    with paths.looking_at("run"):
        draw("tiny", progress=False)
        folder = paths.figures_dir("tiny")
    assert {p.name for p in folder.iterdir()} == {"figure1.png", "figure1.svg", "figure1.json"}
    assert "Keep 0.25." in (folder / "figure1.json").read_text()
    notebook(bare / "notebooks" / "02_fails.ipynb", "x = 1", "undefined_name")
    with pytest.raises(NotebookFailed, match=r"02_fails.ipynb failed in cell 3.*NameError"):
        draw("tiny", progress=False)
