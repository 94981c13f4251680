"""Notebooks run whole or not at all, and keep nothing of the run that says nothing."""

import os
import re

import nbformat
import pytest

from lib.study.reports import notebooks
from lib.study.reports.notebooks import NotebookFailed


def run(source, output, given=(), log=None):
    notebooks.execute(
        source, output, dict(given), log=log or output.parent / "log" / "x.log", progress=False
    )
    return nbformat.read(output, as_version=4)


def test_parameters_are_those_the_notebook_has(bare, notebook):
    path = notebook(
        bare / "a.ipynb", 'profile = "embedded"\nkeep = 0.5\nn = 3', tags=["parameters"]
    )
    assert notebooks.parameters("tiny", path) == {"profile": "tiny", "keep": 0.25}
    with pytest.raises(ValueError, match="no profile 'tyni'; there are tiny"):
        notebooks.parameters("tyni", path)


def test_it_runs_with_parameters_and_leaves_no_trace_of_the_machine(tmp_path, notebook):
    source = notebook(
        tmp_path / "a.ipynb",
        'profile = "embedded"\nkeep = 0.5',
        "import sys\nprint(profile, keep)\nprint('noise', file=sys.stderr)\nprint('end')",
        tags=["parameters"],
    )
    output = tmp_path / "deep" / "out.ipynb"
    document = run(source, output, {"profile": "tiny", "keep": 0.25})
    assert [o.text for o in document.cells[-1].outputs] == ["tiny 0.25\nend\n"]
    assert document.metadata.papermill.parameters == {"profile": "tiny", "keep": 0.25}
    assert str(tmp_path) not in output.read_text() and "noise" not in str(
        [cell.get("outputs") for cell in document.cells]
    )
    assert set(os.listdir(output.parent)) == {"out.ipynb", "log"}
    assert os.listdir(output.parent / "log") == []


def test_running_twice_in_place_changes_nothing(tmp_path, notebook):
    source = notebook(
        tmp_path / "a.ipynb",
        "from ipywidgets import IntSlider",
        "class Both:\n"
        "    def _repr_mimebundle_(self, **_):\n"
        "        return {**IntSlider()._repr_mimebundle_(), 'text/html': '<b>static</b>'}\n"
        "Both()",
        "import time\nfor i in range(30):\n    print(i, flush=True)\n    time.sleep(0.002)",
    )
    run(source, source)
    once = source.read_bytes()
    document = run(source, source)
    assert source.read_bytes() == once
    assert set(document.cells[2].outputs[0].data) == {"text/plain", "text/html"}
    assert len(document.cells[3].outputs) == 1


def test_a_failing_one_names_itself_its_cell_and_the_log(tmp_path, notebook, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = notebook(
        tmp_path / "02_trial.ipynb", 'profile = "x"', "print('so far')",
        "\nkept = 3\nraise KeyError(kept)", "print('never')", tags=["parameters"],
    )  # fmt: skip
    before, log = source.read_bytes(), tmp_path / "logs" / "02_trial.log"
    with pytest.raises(NotebookFailed) as error:
        run(source, source, {"profile": "y"}, log=log)
    said = str(error.value)
    assert said.startswith("02_trial.ipynb failed in cell ") and "'kept = 3'" in said
    assert "KeyError: 3\nlog: logs/02_trial.log" in said
    assert source.read_bytes() == before, "the notebook itself stays as it was"
    text = log.read_text()
    assert "raise KeyError(kept)" in text and "KeyError" in text.splitlines()[-1]
    stopped = nbformat.read(log.with_suffix(".ipynb"), as_version=4)
    assert "so far" in str(stopped.cells)
    # the cell number is the one a reader of the stopped notebook counts, the banner aside
    number = int(re.search(r"in cell (\d+)", said)[1])
    cells = [c for c in stopped.cells if "papermill-error" not in str(c.metadata.get("tags"))]
    assert "raise KeyError" in cells[number - 1].source
    assert not list(tmp_path.rglob("*.partial"))


def test_a_missing_one_is_named(tmp_path):
    with pytest.raises(NotebookFailed, match=r"no notebook .*none\.ipynb"):
        run(tmp_path / "none.ipynb", tmp_path / "out.ipynb")


def test_the_title_is_the_first_heading_without_mark_up(tmp_path, notebook):
    document = nbformat.read(notebook(tmp_path / "a.ipynb", "1"), as_version=4)
    assert notebooks.title_of(document) == "Trial — a small one"
    assert notebooks.title_of(nbformat.v4.new_notebook()) == "Untitled"
