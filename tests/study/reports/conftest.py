"""A root with a run of a whole small study, and small notebooks."""

import nbformat
import pytest

from lib.study import paths
from tests import tiny_study


@pytest.fixture(scope="session")
def computed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports") / "root"
    return tiny_study.copied(tiny_study.computed_once(tmp_path_factory), folder)


@pytest.fixture
def root(computed, monkeypatch):
    """That root, looked at as a run."""
    monkeypatch.setattr(paths, "ROOT", computed)
    monkeypatch.setenv(paths.VARIABLE, paths.RUN)
    return computed


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """An empty root with a profile."""
    profiles = tmp_path / "notebooks" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "tiny.yaml").write_text("profile: tiny\ndescription: of a test\nkeep: 0.25\n")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def notebook():
    """Writes a notebook of code cells; `tags` mark the first one."""

    def write(path, *sources, tags=()):
        cells = [nbformat.v4.new_markdown_cell("# Trial — a *small* one")]
        cells += [nbformat.v4.new_code_cell(source) for source in sources]
        cells[1].metadata["tags"] = list(tags)
        document = nbformat.v4.new_notebook(cells=cells)
        document.metadata["kernelspec"] = {
            "name": "python3", "display_name": "x", "language": "python",
        }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(document, path)
        return path

    return write
