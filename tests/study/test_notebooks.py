"""The notebooks' one grammar, the profiles they take, and that their check bites."""

import ast
import os
import re
import shutil
import statistics
import subprocess
import sys

import nbformat
import papermill
import pytest
import yaml
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from lib.study.paths import ROOT, profiles_dir
from lib.study.profiles import profile_names
from lib.study.reports import notebooks, roots

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
REPORTED = notebooks.notebooks()
PROFILES = profile_names()
SANITIZE = ROOT / "tests" / "nbval_sanitize.cfg"
#: one's own method is written in the walkthrough, which is its last lesson
MAY_DEFINE = {"00_walkthrough.ipynb": 1}
#: long cells that train belong to a notebook that nobody runs twice
MAY_BE_LONG = {"90_train_embedded_model.ipynb", "91_train_photo_model.ipynb"}
OPENING = ("**In the paper:**", "**Inputs:**", "**Outputs:**", "**Run time:**")
CLOSING = ("**Here", "**The paper shows**", "**How ours differs:**", "**A dial to turn:**")

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
reported = pytest.mark.parametrize("path", REPORTED, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(str(path), as_version=4)


def code(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def tags(cell):
    return set(cell.metadata.get("tags", ()))


def parameters(path):
    (cell,) = [cell for cell in code(path) if "parameters" in tags(cell)]
    return cell


def test_there_is_a_notebook_for_every_figure_and_table():
    names = " ".join(path.stem for path in REPORTED)
    for part in ("walkthrough", *(f"figure{n}" for n in range(1, 6)), "table1", "ablations",
                 "efficiency"):  # fmt: skip
        assert part in names, part


# ---- the grammar


@each
def test_it_opens_with_its_claim_and_where_it_stands(path):
    first, second = read(path).cells[:2]
    assert first.cell_type == "markdown" and re.match(r"# \S[^\n]* — [A-Z]", first.source)
    places = [first.source.index(part) for part in OPENING]
    assert places == sorted(places)
    assert second.cell_type == "code" or path not in REPORTED


@each
def test_it_closes_with_what_to_notice(path):
    last = read(path).cells[-1]
    assert last.source.startswith("## What to notice\n")
    places = [last.source.index(part) for part in CLOSING]
    assert places[-1] == max(places), "the dial to turn comes last"


@reported
def test_parameters_imports_and_setting_come_first(path):
    first, second, third = code(path)[:3]
    assert tags(first) == {"parameters"}
    kinds = {type(node) for node in ast.parse(second.source).body}
    assert kinds <= {ast.Import, ast.ImportFrom}
    assert third.source == "setting(profile)" and tags(third) == {"nbval-ignore-output"}
    for cell in code(path)[2:]:
        assert not re.search(r"^\s*(import|from) ", cell.source, re.MULTILINE), cell.source[:80]


@reported
def test_it_has_a_check_table_and_no_numbered_sections(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    assert text.count("## Check table") == 1
    assert not re.search(r"^#+ \d+[.)]? ", text, re.MULTILINE)


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
        lengths = [len(cell.source.splitlines()) for cell in code(path)[2:]]
        assert max(lengths) <= 11 and statistics.median(lengths) <= 4, lengths


def test_a_figure_is_shown_or_saved_in_one_call_at_the_end_of_a_cell():
    for path in REPORTED:
        for cell in code(path):
            if re.search(r"\b(save|show)\(", cell.source):
                last = ast.parse(cell.source).body[-1]
                assert isinstance(last, ast.Expr) and isinstance(last.value, ast.Call)
                assert last.value.func.id in ("save", "show"), cell.source


@pytest.mark.parametrize("name", ["00", "02", "03", "04"])
def test_the_method_is_built_and_then_held_against_the_library(name):
    (path,) = (ROOT / "notebooks").glob(f"{name}_*.ipynb")
    text = "\n".join(cell.source for cell in code(path) if "open" in tags(cell))
    assert text.count("assert torch.allclose(") >= (1 if name in ("02", "04") else 3)


# ---- as it is committed


@each
def test_it_was_executed_in_order_to_its_end(path):
    counts = [cell.execution_count for cell in code(path)]
    assert counts == list(range(1, len(counts) + 1)), "run: make notebooks"
    outputs = [output for cell in code(path) for output in cell.outputs]
    assert outputs and not [o for o in outputs if o.output_type == "error"]


@each
def test_it_says_nothing_about_the_machine_or_the_run(path):
    text = path.read_text()
    for word in ("/home/", "/root/", "/Users/", "/tmp/", str(ROOT), "model_id"):
        assert word not in text, word
    assert path not in REPORTED or "<Figure size" not in text, "a figure is shown twice"
    document = read(path)
    before = nbformat.writes(document)
    assert nbformat.writes(notebooks.tidy(document)) == before


@reported
def test_it_prints_numbers_that_nbval_compares(path):
    printed = [
        output
        for cell in code(path)
        if not {"nbval-ignore-output", "nbval-skip"} & tags(cell)
        for output in cell.outputs
    ]
    texts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in printed]
    assert any(re.search(r"\d\.\d", "".join(text)) for text in texts)


@reported
def test_pictures_have_a_text_alternative(path):
    for cell in code(path):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                alt = output.metadata.get("image/png", {}).get("alt")
                assert alt and len(alt) > 20, cell.source[:80]


def test_notebooks_and_what_is_drawn_by_them_stay_small():
    folders = [ROOT / "notebooks", ROOT / "figures", ROOT / "reports"]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8e6
    assert max(path.stat().st_size for path in files if path.suffix == ".html") < 3e5


# ---- profiles and the check


@pytest.mark.parametrize("profile", PROFILES)
def test_papermill_accepts_every_profile_file(profile):
    given = yaml.safe_load((profiles_dir() / f"{profile}.yaml").read_text())
    for path in REPORTED:
        document = parameterize_notebook(load_notebook_node(str(path)), given)
        cells = [cell for cell in document.cells if "injected-parameters" in tags(cell)]
        assert len(cells) == 1
        scope: dict = {}
        exec(cells[0].source, scope)
        assert scope["profile"] == profile
        used = notebooks.parameters(profile, path)
        assert used["profile"] == profile
        assert {k: v for k, v in used.items() if k in given}.items() <= given.items()


def nbval(root, package):
    """Run nbval on the notebook of Figure 5 in `root`; the exit status and what it said."""
    (path,) = (ROOT / "notebooks").glob("05_*.ipynb")
    environment = {**os.environ, "ENTROPY_PRUNE_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(package)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.lean", "--nbval", "--nbval-current-env",
         "--nbval-sanitize-with", str(SANITIZE), "-p", "no:cacheprovider", "-p", "no:xdist",
         "--no-cov", "-q", str(path)],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_a_changed_number_in_the_entropy_fails_the_check(tmp_path):
    root = roots.reference_root(tmp_path / "root")
    package = tmp_path / "package"
    shutil.copytree(ROOT / "lib", package / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    # every entropy comes out a tenth too large
    (measures,) = package.glob("lib/study/inspection/measures.py")
    text = measures.read_text()
    assert text.count("float(matrix_entropy(") == 1
    measures.write_text(text.replace("float(matrix_entropy(", "1.1 * float(matrix_entropy("))
    status, said = nbval(root, package)
    assert status == 1, said
    assert "mismatch" in said and re.search(r"^1 failed, 1\d passed", said, re.MULTILINE), said
    assert "for name, mask in sets.items()" in said, "the cell that shows them, and no other"


def test_every_skip_has_its_reason():
    """Only versions, and a slider whose model ids are random, escape the comparison."""
    for path in REPORTED:
        for cell in code(path):
            if tags(cell) & {"nbval-ignore-output", "nbval-skip"}:
                reason = cell.source == "setting(profile)" or "Slider" in cell.source
                assert reason, f"{path.name}: {cell.source[:80]}"
