"""The README's section "Add a method" works as it stands: one file, found by everything."""

import importlib
import json
import re
import sys

import pytest
import torch

import lib.pruning
from lib.pruning import available, base, create
from lib.study import paths
from lib.study.paths import ROOT
from lib.study.reports import report
from lib.study.reports.tables import table1
from tests.tiny import one, ragged, tiny_llava

README = (ROOT / "README.md").read_text()


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The section's file in a folder on the package's path, and its method registered."""
    block = re.search(r"<!-- tested: add a method -->\n```python\n(.*?)```", README, re.S)[1]
    name = re.match(r"# lib/pruning/(\w+)\.py\n", block)[1]
    (tmp_path / f"{name}.py").write_text(block)
    monkeypatch.setattr(lib.pruning, "__path__", [*lib.pruning.__path__, str(tmp_path)])
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    assert name in list(base.discover())
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


def test_the_readme_names_every_registered_method():
    for name in available():
        assert f"`{name}`" in README


def test_links_and_files_of_the_readme_exist():
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_results_are_the_stored_table(tmp_path, monkeypatch):
    """The table of the committed records, even where `make reproduce` has made its own."""
    monkeypatch.setattr(paths, "ROOT", report.reference_root(tmp_path / "reference"))
    stored = table1.write("embedded")["table1.md"].read_text()
    block = re.search(r"<!-- results -->\n(.*?)<!-- /results -->", README, re.S)[1]
    lines = [line for line in block.splitlines() if line.startswith("|")]
    assert len(lines) > 20
    for line in lines:
        assert line in stored, line


def test_the_speed_table_is_the_stored_one():
    block = re.search(r"<!-- speed -->\n(.*?)<!-- /speed -->", README, re.S)[1]
    path = ROOT / "data" / "results" / "shape" / "benchmark.json"
    rows = [r for r in json.loads(path.read_text())["rows"] if r["new_tokens"] == 64]
    rows = {(row["method"], row["batch"]): row for row in rows}
    shown = [[c.strip() for c in line.split("|")[1:-1]] for line in block.splitlines()[2:]]
    methods = ["unpruned", "random", "tome", "fastv", "entropy", "entropy-layer2", "entropy-token",
               "adaptive"]  # fmt: skip
    assert len(shown) == len(methods)

    def ms(row, field, digits=1):
        return f"{1e3 * row[field]['median']:,.{digits}f}" if field in row else "–"

    for (label, *cells), name in zip(shown, methods):
        first = rows[name, 1]
        assert cells == [
            "–" if name == "unpruned" else ms(first, "scorer", 2),
            *(ms(rows.get((name, batch), {}), "static_prefill") for batch in (1, 8, 32)),
            ms(first, "static_decode", 2),
            ms(first, "end_to_end", 0),
            ms(first, "static_end_to_end", 0),
            f"{first['cache_bytes'] / 1e6:.0f}",
        ], label


def test_the_budgets_are_the_stored_ones():
    block = re.search(r"<!-- budgets -->\n(.*?)<!-- /budgets -->", README, re.S)[1]
    path = ROOT / "data" / "results" / "embedded-val" / "budgets.json"
    rows = json.loads(path.read_text())["rows"]
    cells = [f"{100 * row['CIDEr']:.1f} / {100 * row['Object F1']:.1f}" for row in rows]
    assert re.findall(r"\d+\.\d / \d+\.\d", block)[0] == cells[0]
    shown = {cell for cell in re.findall(r"\d+\.\d / \d+\.\d", block)}
    assert shown == set(cells)
    assert all(len(row["captions"]) == 500 for row in rows)
