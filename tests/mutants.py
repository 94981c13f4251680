"""Change one operator or constant at a time, and see whether a test notices.

    python tests/mutants.py --sample 8
    python tests/mutants.py lib/pruning --sample 8

Each mutant lives in a temporary copy of the library. It meets the examples in its own docstrings
and the tests that `TESTS` names for its module: by default its mirror in tests/, and where there is
none, `ENGINE`. What survives goes to tests/mutants.json with a reason; reasons already written
there are kept. An empty reason, or none for a new survivor, fails the run.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import sklearn.cluster
import torch

ROOT = Path(__file__).parents[1]
RECORD = Path(__file__).with_suffix(".json")
PATHS = (
    "lib/entropy", "lib/clustering", "lib/selection", "lib/rollout.py", "lib/merging.py",
    "lib/pruning",
)  # fmt: skip
#: of the engine's modules: quick ones first, since the first failure ends a mutant
ENGINE = [
    f"tests/pruning/test_{name}.py"
    for name in ("cache", "attention", "staged", "pruning", "engine")
]
#: tests of modules whose mirror alone does not hold them
TESTS = {
    "lib/entropy/decorators.py": [
        "tests/entropy/test_gram.py",
        "tests/entropy/test_leave_one_out.py",
    ],
    "lib/entropy/entropy.py": [
        "tests/entropy/test_entropy.py",
        "tests/entropy/test_dependence.py",
        "tests/entropy/test_errors.py",
    ],
    "lib/entropy/dependence.py": [
        "tests/entropy/test_dependence.py",
        "tests/entropy/test_errors.py",
    ],
    "lib/entropy/gram.py": ["tests/entropy/test_gram.py", "tests/entropy/test_errors.py"],
    "lib/entropy/quadrature.py": [
        "tests/entropy/test_quadrature.py",
        "tests/entropy/test_leave_one_out.py",
        "tests/entropy/test_errors.py",
    ],
    "lib/entropy/leave_one_out.py": [
        "tests/entropy/test_leave_one_out.py",
        "tests/entropy/test_errors.py",
    ],
    "lib/clustering/lloyd.py": ["tests/clustering", "tests/selection/test_rounding.py"],
    "lib/clustering/seeding.py": ["tests/clustering", "tests/selection/test_rounding.py"],
    "lib/clustering/kmeans.py": ["tests/clustering", "tests/selection/test_rounding.py"],
    "lib/selection/layers.py": [
        "tests/selection/test_token_level.py",
        "tests/selection/test_algorithm_1.py",
        "tests/selection/test_strategies.py",
    ],
    "lib/selection/algorithm_1.py": [
        "tests/selection/test_algorithm_1.py",
        "tests/selection/test_rounding.py",
        "tests/selection/test_strategies.py",
    ],
    "lib/selection/ranking.py": [
        "tests/selection/test_ranking.py",
        "tests/selection/test_strategies.py",
    ],
    "lib/pruning/engine/cache.py": ["tests/pruning/test_cache.py"],
    "lib/selection/greedy.py": [
        "tests/selection/test_greedy.py",
        "tests/selection/test_strategies.py",
    ],
}
OTHER = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.USub: ast.UAdd,
    ast.Invert: ast.UAdd,
}
NAMES = {"amin": "amax", "amax": "amin", "minimum": "maximum", "maximum": "minimum"}
NAMES |= {"all": "any", "any": "all", "min": "max", "max": "min", "ceil": "floor"}


def sites(tree: ast.AST) -> Iterator[tuple[ast.AST, str, object]]:
    """The nodes that can be changed, the field to change, and what to put there."""
    skipped = set()
    for node in ast.walk(tree):  # annotations and messages decide nothing
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
            skipped.update(map(id, ast.walk(node.annotation)))
        if isinstance(node, ast.FunctionDef) and node.returns:
            skipped.update(map(id, ast.walk(node.returns)))
        if isinstance(node, ast.Raise | ast.JoinedStr):
            skipped.update(map(id, ast.walk(node)))
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.BinOp | ast.BoolOp | ast.UnaryOp | ast.AugAssign):
            if type(node.op) in OTHER:
                yield node, "op", OTHER[type(node.op)]()
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in OTHER:
            yield node, "ops", [OTHER[type(node.ops[0])](), *node.ops[1:]]
        elif isinstance(node, ast.Attribute) and node.attr in NAMES:
            yield node, "attr", NAMES[node.attr]
        elif isinstance(node, ast.Name) and node.id in NAMES:
            yield node, "id", NAMES[node.id]
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
            value = node.value
            changed = not value if isinstance(value, bool) else value * 2 if value else 1
            yield node, "value", changed


def mutants(path: Path) -> list[tuple[int, str, str]]:
    """Line, description and source of every mutant of a file."""
    tree = ast.parse((ROOT / path).read_text())
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.update((id(inner), node.name) for inner in ast.walk(node))
    found = []
    for node, field, new in sites(tree):
        old = getattr(node, field)
        before = ast.unparse(node)
        setattr(node, field, copy.copy(new))
        text = f"{names.get(id(node), 'module')}: {before} -> {ast.unparse(node)}"
        found.append((node.lineno, text, ast.unparse(tree)))
        setattr(node, field, old)
    return found


def noticed(folder: Path, path: Path, source: str, tests: list[str], limit: float) -> bool:
    """Whether a test of the copy in `folder` fails, or does not end in time, with this source."""
    original = (folder / path).read_text()
    (folder / path).write_text(source)
    child = os.fork()  # torch and scikit-learn are imported already, the library is not
    if child == 0:
        os.setsid()
        os.chdir(folder)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        arguments = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov"]
        code = pytest.main([*arguments, "--doctest-modules", str(path), *tests])
        os._exit(int(code))
    end = time.monotonic() + limit
    try:
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                if code in (2, 3, 4, 5) and source == original:
                    raise RuntimeError(f"pytest ended with {code} on {path}")
                return code != 0
            time.sleep(0.05)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return True
    finally:
        (folder / path).write_text(original)


def tests_of(path: Path) -> list[str]:
    """The tests that hold a module; its mirror in tests/ unless `TESTS` says otherwise."""
    if path.as_posix() in TESTS:
        return TESTS[path.as_posix()]
    folder, name = Path("tests", *path.parts[1:-1]), f"test_{path.name}"
    mirrors = [folder / name, folder / "methods" / name]
    found = [mirror.as_posix() for mirror in mirrors if (ROOT / mirror).is_file()]
    return found or ENGINE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path, help="files or folders below lib/")
    parser.add_argument("--sample", type=int, help="mutants a file, drawn with --seed; else all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=300, help="seconds a mutant")
    options = parser.parse_args()
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)
    assert sklearn.cluster and hypothesis and "lib" not in sys.modules
    files = []
    for path in options.paths or map(Path, PATHS):
        inside = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        files += [p for p in inside if p.name != "__init__.py"]
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sys.path[0] = temporary
        ignore = shutil.ignore_patterns("__pycache__")
        for part in ("lib", "tests"):
            shutil.copytree(ROOT / part, folder / part, ignore=ignore)
        shutil.copy(ROOT / "pyproject.toml", folder)
        for path in files:
            start = time.monotonic()
            entry = examine(folder, path, options, record.get(path.as_posix(), {}))
            record[path.as_posix()] = entry
            RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
            print(
                f"{path}: {entry['killed']} of {entry['tried']} killed, {entry['sites']} sites, "
                f"{time.monotonic() - start:.0f} s",
                flush=True,
            )
    open_ = [s for path in files for s in record[path.as_posix()]["survivors"] if not s["reason"]]
    for survivor in open_:
        print("no reason:", survivor["what"])
    return bool(open_)


def examine(folder: Path, path: Path, options: argparse.Namespace, before: dict) -> dict:
    """What becomes of the mutants of one file."""
    tests = tests_of(path)
    if noticed(folder, path, (ROOT / path).read_text(), tests, options.limit):
        raise RuntimeError(f"{tests} fail without a mutant of {path}")
    every = mutants(path)
    chosen = every
    if options.sample is not None and options.sample < len(every):
        chosen = random.Random(f"{options.seed} {path}").sample(every, options.sample)
    reasons = {s["what"]: s["reason"] for s in before.get("survivors", [])}
    survivors = [
        {"line": line, "what": what, "reason": reasons.get(what, "")}
        for line, what, source in sorted(chosen)
        if not noticed(folder, path, source, tests, options.limit)
    ]
    return {
        "sites": len(every),
        "seed": options.seed,
        "tried": len(chosen),
        "killed": len(chosen) - len(survivors),
        "survivors": survivors,
    }


if __name__ == "__main__":
    sys.exit(main())
