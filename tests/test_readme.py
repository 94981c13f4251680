"""The README: its tables are the committed results, its examples run as they stand."""

import importlib
import re
import sys

import pytest
import torch

import lib.pruning
from lib.pruning import available, create, registry
from lib.study import paths
from lib.study.paths import ROOT
from lib.study.reports import docs
from tests.tiny import one, ragged, tiny_llava

README = (ROOT / "README.md").read_text()


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The file of "Add a method" in a folder on the package's path, and its method registered."""
    block = re.search(r"<!-- tested: add a method -->\n```python\n(.*?)```", README, re.S)[1]
    name = re.match(r"# lib/pruning/(\w+)\.py\n", block)[1]
    (tmp_path / f"{name}.py").write_text(block)
    monkeypatch.setattr(lib.pruning, "__path__", [*lib.pruning.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    assert name in list(registry.discover(lib.pruning))
    yield
    sys.modules.pop(f"lib.pruning.{name}")
    importlib.invalidate_caches()


def test_a_method_is_one_file(added):
    assert "norm" in available()
    model = tiny_llava()
    with torch.inference_mode(), create("norm", keep=0.25)(model) as pruner:
        out = model.generate(**ragged(), do_sample=False, max_new_tokens=3)
        assert out.shape[0] == 3 and [len(k) for k in pruner.kept] == [9] * 4
        features = model.model.get_image_features(one()["pixel_values"]).pooler_output[0]
        model(**one())
        expected = features.norm(dim=-1).topk(9).indices.sort().values
        assert torch.equal(pruner.kept[0], expected)


def test_the_example_runs_as_printed(capsys):
    code = re.search(r"<!-- tested: use -->\n```python\n(.*?)```", README, re.S)[1]
    exec(compile(code, "README.md", "exec"), {})
    said, kept = capsys.readouterr().out.strip().rsplit("\n", 1)
    assert said and re.search(r"\d", kept)


def test_links_and_files_of_the_readme_exist():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(((?!http)[^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_can_be_read_in_a_sitting():
    assert len(README.split()) <= 1700


def test_the_tables_are_the_stored_ones(monkeypatch):
    """Those of the committed records, even where `make reproduce` has made its own."""
    monkeypatch.delenv(paths.VARIABLE, raising=False)
    assert docs.filled(README, docs.blocks()) == README, "run 'python -m lib report docs'"
