"""The notebooks' grammar, the profiles they take, and that their check bites."""

import ast
import os
import re
import shutil
import subprocess
import sys

import nbformat
import papermill
import pytest
import yaml
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from lib.study import run as study
from lib.study.paths import ROOT
from lib.study.reports import report

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
REPORTED = report.notebooks()
PROFILES = study.profile_names()
SANITIZE = ROOT / "tests" / "nbval_sanitize.cfg"
#: one's own method is written in the walkthrough, which is its last lesson
MAY_DEFINE = {"00_walkthrough.ipynb": 1}
#: long cells that train belong to a notebook that nobody runs twice
MAY_BE_LONG = {"90_train_embedded_model.ipynb"}

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(str(path), as_version=4)


def code(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def parameters(path):
    (cell,) = [c for c in code(path) if "parameters" in c.metadata.get("tags", ())]
    return cell


def test_there_is_a_notebook_for_every_figure_and_table():
    names = " ".join(path.stem for path in REPORTED)
    for part in ("walkthrough", *(f"figure{n}" for n in range(1, 6)), "table1", "ablations",
                 "efficiency"):  # fmt: skip
        assert part in names, part


@each
def test_it_opens_with_its_claim(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown" and re.match(r"# \S.+", first.source)


@each
def test_its_parameters_are_tagged_literals(path):
    cell = parameters(path)
    assert code(path).index(cell) == 0, "parameters come first"
    for node in ast.parse(cell.source).body:
        assert isinstance(node, ast.Assign), ast.unparse(node)
        ast.literal_eval(node.value)
    if path in REPORTED:
        assert papermill.inspect_notebook(str(path))["profile"]["default"] == '"embedded"'


@each
def test_it_defines_nothing(path):
    found = []
    for cell in code(path):
        source = "\n".join(x for x in cell.source.splitlines() if not x.startswith(("%", "!")))
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
        found += [cell] if nodes else []
    assert len(found) <= MAY_DEFINE.get(path.name, 0), [cell.source[:80] for cell in found]


@each
def test_its_cells_are_short(path):
    if path.name not in MAY_BE_LONG:
        for cell in code(path):
            assert len(cell.source.splitlines()) <= 30, cell.source[:80]


@each
def test_it_was_executed_in_order_to_its_end(path):
    counts = [cell.execution_count for cell in code(path)]
    assert counts == list(range(1, len(counts) + 1)), "run: make notebooks"
    outputs = [output for cell in code(path) for output in cell.outputs]
    assert outputs and not [o for o in outputs if o.output_type == "error"]


@each
def test_it_says_nothing_about_the_machine_it_ran_on(path):
    text = path.read_text()
    for word in ("/home/", "/root/", "/Users/", "/tmp/", str(ROOT)):
        assert word not in text, word


@pytest.mark.parametrize("path", REPORTED, ids=lambda path: path.stem)
def test_it_prints_numbers_that_nbval_compares(path):
    printed = [
        output
        for cell in code(path)
        if not {"nbval-ignore-output", "nbval-skip"} & set(cell.metadata.get("tags", ()))
        for output in cell.outputs
    ]
    texts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in printed]
    assert any(re.search(r"\d\.\d", "".join(text)) for text in texts)


@pytest.mark.parametrize("path", REPORTED, ids=lambda path: path.stem)
def test_pictures_have_a_text_alternative(path):
    for cell in code(path):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                alt = output.metadata.get("image/png", {}).get("alt") or cell.metadata.get("alt")
                assert alt and len(alt) > 20, cell.source[:80]


@pytest.mark.parametrize("profile", PROFILES)
def test_papermill_accepts_every_profile_file(profile):
    given = yaml.safe_load((ROOT / "notebooks" / "profiles" / f"{profile}.yaml").read_text())
    for path in REPORTED:
        document = parameterize_notebook(load_notebook_node(str(path)), given)
        cells = [c for c in document.cells if "injected-parameters" in c.metadata.get("tags", ())]
        assert len(cells) == 1
        scope: dict = {}
        exec(cells[0].source, scope)
        assert scope["profile"] == profile
        used = report.profile_parameters(profile, path)
        assert used["profile"] == profile and used.items() <= given.items()


def nbval(root, *, package=None):
    """Run nbval on the notebook of Figure 5 in `root`; the exit status and what it said."""
    (path,) = (ROOT / "notebooks").glob("05_*.ipynb")
    environment = {**os.environ, "ENTROPY_PRUNE_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    if package is not None:
        environment["PYTHONPATH"] = str(package)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval", "--nbval-sanitize-with", str(SANITIZE),
         "-p", "no:cacheprovider", "-p", "no:xdist", "--no-cov", "-q", str(path)],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_a_changed_number_in_the_entropy_fails_the_check(tmp_path):
    root = report.reference_root(tmp_path / "root")
    package = tmp_path / "package"
    shutil.copytree(ROOT / "lib", package / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    source = package / "lib" / "entropy.py"
    status, said = nbval(root, package=package)
    assert status == 0, said
    text = source.read_text()
    before = "def matrix_entropy(\n    tokens: Tensor, alpha: float = 1.0"
    assert text.count(before) == 1
    source.write_text(text.replace(before, before.replace("1.0", "1.1")))
    status, said = nbval(root, package=package)
    assert status == 1, said
    assert "mismatch" in said


def test_every_skip_has_its_reason():
    """Only versions, and a slider whose model ids are random, escape the comparison."""
    for path in REPORTED:
        for cell in code(path):
            tags = set(cell.metadata.get("tags", ()))
            if tags & {"nbval-ignore-output", "nbval-skip"}:
                reason = "environment()" in cell.source or "Slider" in cell.source
                assert reason, f"{path.name}: {cell.source[:80]}"
