"""Imports go one way: study -> decoding, pruning -> selection -> clustering, rollout -> entropy ->
kernels; the library never imports the study, not even by way of something else."""

import ast
import functools
import re
import sys
from pathlib import Path

import pytest

from lib.study.paths import PACKAGE, ROOT

#: the library's modules and folders by how far up they stand; a module imports those below it
LEVELS = {
    "geometry": 0, "kernels": 0, "entropy": 1, "clustering": 2, "rollout": 2, "merging": 2,
    "selection": 3, "pruning": 4, "decoding": 5, "plugins": 6, "study": 7,
}  # fmt: skip
#: the mathematics: tensors in, tensors out
PURE = {"geometry", "kernels", "entropy", "clustering", "rollout", "merging", "selection"}
#: plug-ins by what their host brings along
HOSTS = {"lib.plugins.lmms_eval": {"lmms_eval", "accelerate", "PIL", "tqdm"}}
#: what of the study knows no model, so that tables and pages need none
MODEL_FREE = (
    "paths", "files", "hub", "labels", "profiles", "stored", "records", "compare", "publish",
)  # fmt: skip
#: folders of the study whose modules import everything at their top
ALL_AT_THE_TOP = ("captioning", "models", "records", "cost", "stages")


def module_of(path: Path) -> str:
    parts = ("lib", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@functools.cache
def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


@functools.cache
def imported(name: str) -> set[str]:
    """Full names of everything that a module imports, of ours and of others."""
    package = name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(parts if node.level else []), *filter(None, [node.module])])
            # what is imported may be a module or a name in one
            found |= {f"{base}.{alias.name}" for alias in node.names} | {base}
    return found


def ours(names: set[str]) -> set[str]:
    return names & FILES.keys()


def needed(name: str) -> set[str]:
    """Other modules of ours that a module imports."""
    return ours(imported(name)) - {name}


def reached(start: str) -> set[str]:
    """Modules of ours that importing a module imports, the packages around each included."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            parents = {name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)}
            todo += needed(name) | ours(parents)
    return seen


def top(name: str) -> str:
    """The module or folder of the first level: "pruning" of "lib.pruning.engine"."""
    return name.split(".")[1] if "." in name else ""


def others(name: str) -> set[str]:
    """Packages that are neither ours nor Python's."""
    roots = {other.split(".")[0] for other in imported(name)}
    return roots - {"lib", "__future__"} - set(sys.stdlib_module_names)


LIBRARY = [name for name in FILES if top(name) not in ("study", "__main__")]


def test_every_module_of_the_first_level_has_its_place():
    assert {top(name) for name in FILES} - {"", "__main__", "_checks"} <= LEVELS.keys()


@pytest.mark.parametrize("name", LIBRARY)
def test_the_library_never_reaches_the_study(name):
    assert not {other for other in reached(name) if top(other) == "study"}


@pytest.mark.parametrize("name", [n for n in FILES if top(n) in LEVELS])
def test_imports_go_down(name):
    for other in needed(name):
        if top(other) in LEVELS and top(other) != top(name):
            assert LEVELS[top(other)] < LEVELS[top(name)], f"{name} imports {other}"


@pytest.mark.parametrize("name", [n for n in LIBRARY if top(n) in PURE])
def test_the_mathematics_imports_only_torch(name):
    assert others(name) <= ({"torch", "triton"} if top(name) == "kernels" else {"torch"})


@pytest.mark.skipif(not (PACKAGE / "kernels").is_dir(), reason="the kernels are one file")
def test_triton_is_imported_when_somebody_asks_for_kernels():
    rooms = {name.rpartition(".")[2]: name for name in FILES if top(name) == "kernels"}
    needing = {room for room, name in rooms.items() if "triton" in others(name)}
    assert needing and {"kernels", "dispatch", "operations"}.isdisjoint(needing)
    for room in ("kernels", "dispatch"):
        at_the_top = [n for n in tree(rooms[room]).body if isinstance(n, ast.ImportFrom)]
        assert {node.module for node in at_the_top if node.level} <= {"dispatch"}


@pytest.mark.parametrize("name", LIBRARY)
def test_the_library_needs_torch_and_transformers_alone(name):
    host = next((tool for start, tool in HOSTS.items() if name.startswith(start)), set())
    assert others(name) <= {"torch", "transformers", "triton"} | host


@pytest.mark.parametrize("name", [n for n in FILES if top(n) != "plugins"])
def test_only_its_host_loads_a_plug_in(name):
    assert not {other for other in needed(name) if top(other) == "plugins"}


def test_captions_do_not_go_through_the_decoder():
    """`lib.study.dependencies` leaves it out of what captions depend on."""
    for name in ("lib.study.captioning", "lib.study.captioning.split", "lib.study.stages.captions"):
        assert not {other for other in reached(name) if top(other) == "decoding"}


@pytest.mark.parametrize("name", MODEL_FREE)
def test_these_parts_of_the_study_know_no_model(name):
    found = {n for n in reached(f"lib.study.{name}") if top(n) == "study"}
    for other in found:
        assert not others(other) & {"torch", "transformers"}, other
    assert not {n for n in found if n.startswith(("lib.study.models", "lib.study.captioning"))}


@pytest.mark.parametrize(
    "name", [n for n in FILES if top(n) == "study" and n.split(".")[2:3] and
             n.split(".")[2] in ALL_AT_THE_TOP]
)  # fmt: skip
def test_imports_stand_at_the_top(name):
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not inner, f"{name}.{node.name} imports inside"


@pytest.mark.parametrize("name", FILES)
def test_nothing_in_lib_imports_a_test_tool(name):
    assert not others(name) & {"pytest", "hypothesis", "tests", "nbval"}


def test_the_study_s_map_names_every_module():
    named = set(re.findall(r"`(\w+)`", ast.get_docstring(tree("lib.study"))))
    assert named == {n.split(".")[2] for n in FILES if top(n) == "study" and n.count(".") > 1}


def test_the_top_level_is_the_one_the_card_names():
    names = {path.name for path in ROOT.iterdir()}
    assert {
        "notebooks", "lib", "data", "figures", "reports", "tests",
        "environment.yml", "Makefile", "README.md",
    } <= names  # fmt: skip
