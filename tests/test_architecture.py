"""Imports go one way, and the top level is the one the card names."""

import ast

import pytest

from lib.study.paths import ROOT

PURE = {"entropy", "clustering", "rollout", "selection"}
#: modules that must never import a model or the pruning hooks
MODEL_FREE = {"plots", "metrics", "efficiency", "results", "coco", "paths"}


def imports(path):
    """Top-level names of other packages, and the `lib` modules, that a file imports."""
    others, ours = set(), set()
    package = "lib.pruning" if path.parent.name == "pruning" else "lib"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *([node.module] if node.module else [])])
            names = [base] if base != "lib" else [f"lib.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            root, *rest = name.split(".")
            if root == "lib":
                ours.add(rest[0] if rest else "")
            else:
                others.add(root)
    return others, ours


def standard_library():
    import sys

    return set(sys.stdlib_module_names)


@pytest.mark.parametrize("name", sorted(PURE))
def test_the_pure_quartet_imports_only_torch(name):
    others, ours = imports(ROOT / "lib" / f"{name}.py")
    assert others - standard_library() <= {"torch"}
    assert ours <= PURE | {"_checks", "kernels"}


def test_the_kernels_import_only_triton_and_torch():
    others, ours = imports(ROOT / "lib" / "kernels.py")
    assert others - standard_library() <= {"torch", "triton"}
    assert not ours


def test_pruning_imports_the_pure_quartet_and_nothing_else_of_ours():
    for path in (ROOT / "lib" / "pruning").glob("*.py"):
        _, ours = imports(path)
        assert ours <= PURE | {"pruning", "paths"}, path.name


@pytest.mark.parametrize("name", sorted(MODEL_FREE))
def test_these_modules_know_no_model(name):
    path = ROOT / "lib" / f"{name}.py"
    if not path.exists():
        pytest.skip(f"{name} does not exist yet")
    others, ours = imports(path)
    assert "transformers" not in others
    assert not ours & {"models", "pruning", "captioning"}


def test_nothing_in_lib_imports_a_notebook_runner_or_a_test_tool():
    for path in (ROOT / "lib").rglob("*.py"):
        others, _ = imports(path)
        assert not others & {"pytest", "hypothesis", "tests", "nbval"}, path.name


def test_the_top_level_is_the_one_the_card_names():
    names = {path.name for path in ROOT.iterdir()}
    assert {
        "notebooks", "lib", "data", "figures", "reports", "tests",
        "environment.yml", "Makefile", "README.md",
    } <= names  # fmt: skip
