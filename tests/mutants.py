"""Change one operator or constant at a time, and see whether a test notices.

    python -m tests.mutants --sample 8
    python -m tests.mutants lib/pruning --sample 8
    python -m tests.mutants lib/pruning --again

Each mutant lives in a temporary copy of the library. It meets the examples in its own docstrings
and the runs of tests that hold its module, the quickest first: its mirror in tests/ or what `TESTS`
names for it, and of what a pruning method shares with all others (the contract) the part that the
method's name selects. What survives goes to tests/mutants.json with a reason; reasons already
written there are kept. An empty reason, or none for a new survivor, fails the run.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import copy
import importlib
import json
import os
import py_compile
import random
import re
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

from lib.study.files import write_json

ROOT = Path(__file__).parents[1]
RECORD = Path(__file__).with_suffix(".json")
PATHS = (
    "lib/entropy", "lib/clustering", "lib/selection", "lib/rollout.py", "lib/merging.py",
    "lib/pruning",
)  # fmt: skip
#: seconds for all runs without a mutant
WHOLE = 3600
CONTRACT = ["tests/pruning/test_contract.py", "tests/pruning/families/test_contract.py"]
MORE = ["tests/pruning/methods/test_waiting.py", "tests/pruning/engine"]
#: left out below: tests on compiled models
QUICK = "not compiled"
#: one method for each way through the engine: stages, the tower, attention, merging
SOME = "(fastv or entropy or tome or sparsevlm or downsample or tokencorr or visionzip)"
SLOW = "(prompt_lookup or threads or outlives)"
#: of the engine's modules: quick ones first, since the first failure ends a mutant
ENGINE = [
    [
        *(f"tests/pruning/test_{name}.py" for name in ("cache", "attention", "staged", "pruning")),
        "tests/pruning/methods",
    ],
    ["tests/pruning/engine", "-k", f"{QUICK} and not {SLOW}"],
    ["tests/pruning/families/test_towers.py", "tests/pruning/test_graphs.py"],
    ["tests/pruning/test_contract.py", "-k", SOME],
    ["tests/pruning/families/test_contract.py", "-k", f"not every_method or {SOME}"],
    ["tests/pruning/engine", "-k", f"{SLOW} and {SOME}"],
]
#: of what several methods share: these methods, or tests of another name
USERS = {
    "choice": "sparsevlm or pyramiddrop or dart or weighted",
    "fixed": "fixed or stages or oracle or chosen",
    "in_tower": "tome or ppt",
    "places": "topv",
    "rasters": "grid or pool or hired or downsample",
    "recycling": "sparsevlm",
    "registry": "name or unknown or json",
    "staged": "staged or pyramiddrop or sparsevlm or v2drop",
    "states": "entropy or selection or weighted",
    "text": "mmtok or cdpruner",
    "tower_rule": "fastervlm or hired or visionzip or scope or prumerge",
}
#: of an adapter: its own name, and that of a family made from it
FAMILIES = {
    "base": "llava or qwen or vl",
    "smolvlm": "smolvlm or idefics3",
    "qwen2_5_vl": "qwen",
}
#: tests of modules that are not held by their mirror, or by it alone
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
    "lib/pruning/support.py": ["tests/pruning/test_support.py"],
    "lib/pruning/engine/graphs.py": ["tests/pruning/test_graphs.py"],
    # whose mirror alone has to hold them: seconds a mutant, where the engine's tests take minutes
    "lib/pruning/engine/attention.py": ["tests/pruning/test_attention.py"],
    "lib/pruning/engine/averages.py": ["tests/pruning/test_averages.py"],
    "lib/pruning/engine/cache.py": [
        "tests/pruning/test_segments.py",
        "tests/pruning/test_cache.py",
    ],
    "lib/pruning/engine/images.py": ["tests/pruning/test_images.py"],
    "lib/pruning/engine/passes.py": ["tests/pruning/test_passes.py"],
    "lib/pruning/engine/prompt.py": ["tests/pruning/test_prompt.py"],
    "lib/pruning/engine/received.py": ["tests/pruning/test_received.py"],
    "lib/pruning/engine/release.py": ["tests/pruning/test_release.py"],
    "lib/pruning/engine/tower.py": [
        "tests/pruning/test_tower.py",
        "tests/pruning/families/test_towers.py",
    ],
    "lib/pruning/engine/pruner.py": [
        "tests/pruning/test_pruner.py",
        "tests/pruning/test_pruning.py",
        "tests/pruning/test_staged.py",
    ],
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
    "lib/selection/terms.py": ["tests/selection/test_terms.py", "tests/selection/test_weighted.py"],
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
        if isinstance(node, ast.keyword) and node.arg == "repr":
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


def noticed(folder: Path, path: Path, source: str, runs: list[list[str]], limit: float) -> bool:
    """Whether a test of the copy in `folder` fails, or does not end in time, with this source.

    runs: what to pass to pytest, one after another until a test fails.
    """
    original = (folder / path).read_text()
    (folder / path).write_text(source)
    child = os.fork()  # torch and scikit-learn are imported already, the library is not
    if child == 0:
        os.setsid()
        os.chdir(folder)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os._exit(first_failure(path, runs))
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


def first_failure(path: Path, runs: list[list[str]]) -> int:
    """pytest's exit code of the first run that fails, 0 if none does."""
    arguments = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov"]
    for number, tests in enumerate(runs):
        examples = [] if number else ["--doctest-modules", str(path)]
        if code := int(pytest.main([*arguments, *examples, *tests])):
            return code
    return 0


def tests_of(path: Path) -> list[list[str]]:
    """The runs of tests that hold a module, each what pytest is given, the quickest first."""
    if path.as_posix() in TESTS:
        return [TESTS[path.as_posix()]]
    flat = [part for part in path.parts[1:-1] if part != "engine"]
    folder, name = Path("tests", *flat), f"test_{path.name}"
    mirrors = [folder / name, folder / "methods" / name]
    found = [[mirror.as_posix()] for mirror in mirrors if (ROOT / mirror).is_file()]
    if path.parent == Path("lib/pruning/families"):
        return [
            ["tests/pruning/families/test_towers.py"],
            [CONTRACT[1], "-k", FAMILIES.get(path.stem, path.stem)],
            ["tests/pruning/test_pruning.py", *ENGINE[1]],
        ]
    if "pruning" in path.parts and (names := methods_of(path)):
        general = [f"tests/pruning/test_{name}.py" for name in ("pruning", "staged")]
        methods = ["tests/pruning/methods", "-k", names]
        own = found or [general, methods]
        shared = [*CONTRACT, *MORE, "-k", f"({names}) and {QUICK}"]
        return [*own, methods, shared] if "engine" in path.parts else [*own, shared]
    return found if found and "pruning" not in path.parts else [*found, *ENGINE]


def methods_of(path: Path) -> str:
    """The methods a file registers, or those that use it, as pytest selects tests by them."""
    source = (ROOT / path).read_text()
    named = re.findall(r'^class .*\bname="([\w-]+)"', source, re.MULTILINE)
    return " or ".join(named) or USERS.get(path.stem, "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path, help="files or folders below lib/")
    parser.add_argument("--sample", type=int, help="mutants a file, drawn with --seed; else all")
    parser.add_argument("--again", action="store_true", help="only survivors without a reason")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=300, help="seconds a mutant, at least")
    options = parser.parse_args()
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)
    assert sklearn.cluster and hypothesis and "lib" not in sys.modules
    files = []
    for path in options.paths or map(Path, PATHS):
        inside = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        files += [p for p in inside if p.name != "__init__.py"]
    record = json.loads(RECORD.read_text())
    passed: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sys.path[0] = temporary
        ignore = shutil.ignore_patterns("__pycache__")
        for part in ("lib", "tests"):
            shutil.copytree(ROOT / part, folder / part, ignore=ignore)
        shutil.copy(ROOT / "pyproject.toml", folder)
        prepare(folder)
        for path in files:
            start = time.monotonic()
            entry = examine(folder, path, options, record.get(path.as_posix(), {}), passed)
            record = json.loads(RECORD.read_text())  # another run may have written meanwhile
            record[path.as_posix()] = entry
            write_json(RECORD, record)
            print(
                f"{path}: {entry['killed']} of {entry['tried']} killed, {entry['sites']} sites, "
                f"{time.monotonic() - start:.0f} s",
                flush=True,
            )
    open_ = [s for path in files for s in record[path.as_posix()]["survivors"] if not s["reason"]]
    for survivor in open_:
        print("no reason:", survivor["what"])
    return bool(open_)


def prepare(folder: Path) -> None:
    """What every mutant would do again: compile the other modules, import the tests' models."""
    checked = py_compile.PycInvalidationMode.CHECKED_HASH  # a mutant may be as long as its original
    compileall.compile_dir(folder, quiet=2, invalidation_mode=checked)
    importlib.import_module("tests.pruning.families.tiny")
    assert "lib" not in sys.modules


def examine(
    folder: Path, path: Path, options: argparse.Namespace, before: dict, passed: dict[str, float]
) -> dict:
    """What becomes of the mutants of one file; `passed`: seconds of runs that pass without one."""
    runs = tests_of(path)
    for run in runs:  # what modules share passes without a mutant, once
        start = time.monotonic()
        if str(run) not in passed:
            if noticed(folder, path, (ROOT / path).read_text(), [run], WHOLE):
                raise RuntimeError(f"{run} fails without a mutant of {path}")
            passed[str(run)] = time.monotonic() - start
    # a mutant that only waits behind another process is none that a test has noticed
    limit = max(options.limit, 4 * sum(passed[str(run)] for run in runs))
    every, known = mutants(path), before.get("survivors", [])
    reasons = {s["what"]: s["reason"] for s in known}
    chosen, tried, seed, held = every, len(every), options.seed, []
    if options.again:
        open_ = [s for s in known if not s["reason"]]
        held = [s for s in known if s["reason"]]
        names = {(s["line"], s["what"]) for s in open_}
        # what is written alike on one line is told apart by nothing: all of it is tried
        chosen = [mutant for mutant in every if mutant[:2] in names]
        tried = min(before["tried"] + max(0, len(chosen) - len(open_)), len(every))
        seed = before["seed"]
    elif options.sample is not None and options.sample < len(every):
        chosen = random.Random(f"{options.seed} {path}").sample(every, options.sample)
        tried = len(chosen)
    survivors = [
        {"line": line, "what": what, "reason": reasons.get(what, "")}
        for line, what, source in sorted(chosen)
        if not noticed(folder, path, source, runs, limit)
    ]
    return {
        "sites": len(every),
        "seed": seed,
        "tried": tried,
        "killed": tried - len(held) - len(survivors),
        "survivors": held + survivors,
    }


if __name__ == "__main__":
    sys.exit(main())
