"""What can be asked of the reports, in a run and in the reference."""

import os
import re

import nbformat
import pytest

from lib.study import paths
from lib.study.reports import captions, report
from lib.study.reports.plots import save
from lib.study.reports.plots.style import subplots


def curve():
    fig, ax = subplots(figsize=(2, 2))
    ax.plot([0, 1])
    return fig


def test_a_run_leaves_nothing_that_looks_finished_when_it_fails(bare, notebook, monkeypatch):
    monkeypatch.setenv(paths.VARIABLE, paths.RUN)
    good = notebook(bare / "notebooks" / "01_good.ipynb", 'profile = "x"', "print(profile)",
                    tags=["parameters"])  # fmt: skip
    bad = notebook(bare / "notebooks" / "02_bad.ipynb", "1 / 0")
    folder = paths.run_folder("tiny")
    (folder / "reports").mkdir(parents=True)
    for old in ("02_bad.html", "index.html", "01_good.html", "03_other.html"):
        (folder / "reports" / old).write_text("of an earlier run")
    assert report.run(good, "tiny", progress=False) == folder / "notebooks" / "01_good.ipynb"
    with pytest.raises(report.NotebookFailed, match=r"log: .*build/logs/tiny/02_bad\.log"):
        report.run(bad, "tiny", progress=False)
    assert os.listdir(folder / "reports") == ["03_other.html"]
    assert [p.name for p in report.executed("tiny")] == ["01_good.ipynb"]


def test_all_notebooks_run_and_every_failure_is_named(bare, notebook):
    for name, source in (("01_a", "1 / 0"), ("02_b", "print(1)"), ("03_c", "nothing")):
        notebook(bare / "notebooks" / f"{name}.ipynb", source)
    with pytest.raises(report.NotebookFailed) as error:
        report.run_all("tiny", jobs=2, progress=False)
    said = str(error.value)
    assert "01_a.ipynb failed" in said and "03_c.ipynb failed" in said and "02_b" not in said
    assert [p.name for p in report.executed("tiny")] == ["02_b.ipynb"]


def test_a_profile_may_name_its_notebooks(bare, notebook):
    for name in ("01_a", "02_b", "90_train"):
        notebook(bare / "notebooks" / f"{name}.ipynb", "1")
    assert [p.stem for p in report.chosen("tiny")] == ["01_a", "02_b"]
    profile = bare / "notebooks" / "profiles" / "tiny.yaml"
    profile.write_text(profile.read_text() + 'notebooks: "02"\n')
    assert [p.stem for p in report.chosen("tiny")] == ["02_b"]


def test_in_place_execution_changes_a_file_only_on_success(bare, notebook):
    good = notebook(bare / "notebooks" / "01_good.ipynb", "a = 1", "print(a)")
    bad = notebook(bare / "notebooks" / "02_bad.ipynb", "print(1)", "1 / 0")
    before = bad.read_bytes()
    with pytest.raises(report.NotebookFailed, match=r"02_bad.ipynb failed in cell 3 \('1 / 0'\)"):
        report.update([good, bad], progress=False)
    cells = nbformat.read(good, as_version=4).cells
    assert [c.execution_count for c in cells[1:]] == [1, 2] and cells[2].outputs[0].text == "1\n"
    assert bad.read_bytes() == before


def test_pages_need_executed_notebooks(bare):
    with pytest.raises(FileNotFoundError, match="make reproduce PROFILE=tiny"):
        report.html("tiny")


def test_the_committed_notebooks_are_those_of_their_own_profile(monkeypatch):
    monkeypatch.delenv(paths.VARIABLE, raising=False)
    assert report.executed("embedded")[0].parent == paths.ROOT / "notebooks"
    monkeypatch.setenv(paths.VARIABLE, paths.RUN)
    assert paths.ROOT / "notebooks" not in {p.parent for p in report.executed("embedded")}


@pytest.fixture
def written(root, notebook, monkeypatch):
    """The pages of a run with two figures and one notebook."""
    words = {"caption": "Caption <of> {source}.", "alt": 'An "alt" that is long enough.'}
    monkeypatch.setattr(captions, "known", lambda: {"ablation_a": words, "figure1_b": words})
    for name in ("ablation_a", "figure1_b"):
        save(curve(), name, "tiny", source=name)
    notebook(paths.run_folder("tiny") / "notebooks" / "01_trial.ipynb", "1")
    return report.html("tiny")


def test_the_index_shows_table_figures_differences_and_timings(written):
    assert [p.name for p in written] == ["01_trial.html", "index.html"]
    page = written[-1].read_text()
    text = re.sub(r"<[^>]+>", " ", page)
    for part in ("Table 1", "Entropy-Prune", "37.52", "What differs from the paper", "captions",
                 "Environment and timings", "transformers", "SPICE"):  # fmt: skip
        assert part in text, part
    assert page.index('id="figure1_b"') < page.index('id="ablation_a"')
    assert "Caption &lt;of&gt; figure1_b." in page and "An &#34;alt&#34;" in page
    assert 'src="../figures/figure1_b.png"' in page and 'href="../figures/figure1_b.svg"' in page
    assert 'href="01_trial.html"' in page and 'href="comparison.html"' in page
    assert str(paths.ROOT) not in page and "base64" not in page
    for link in re.findall(r'(?:src|href)="([^"#:]+)"', page):
        assert (written[-1].parent / link).is_file(), link
