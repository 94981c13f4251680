"""The wheel holds the library alone, and works in an environment of torch and transformers."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lib
from lib.study.paths import ROOT

#: what a wheel is built from
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "lib")

#: pip as it needs no network: setuptools is in this environment
OFFLINE = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation")

#: a model in tiny, pruned; prints what was imported
USE = """
import json, sys
import entropy_prune
from entropy_prune import EntropyPrune, available, create
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

small = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4)
config = LlavaConfig(
    vision_config=CLIPVisionConfig(**small, image_size=42, patch_size=7, projection_dim=32),
    text_config=LlamaConfig(**small, vocab_size=96, pad_token_id=0, bos_token_id=1, eos_token_id=2),
    image_token_index=90, image_seq_length=36,
)
torch.manual_seed(0)
model = LlavaForConditionalGeneration(config).eval()
model.generation_config.eos_token_id = None  # a random model may say it at once
ids = torch.tensor([[1, 5, *[90] * 36, 6, 7]])
inputs = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 42, 42)}
with EntropyPrune(keep=0.25, layer=1)(model) as pruner:
    out = model.generate(**inputs, max_new_tokens=3, do_sample=False)
kept = [len(index) for index in pruner.kept]
for name in entropy_prune.__all__:
    getattr(entropy_prune, name)
print(json.dumps({
    "kept": kept, "new": out.shape[1] - ids.shape[1], "version": entropy_prune.__version__,
    "methods": available(), "modules": sorted(sys.modules), "file": entropy_prune.__file__,
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that the checkout stays as it is."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    # what an earlier build of everything would have left behind
    left = source / "build" / "lib" / "lib"
    left.mkdir(parents=True)
    (left / "__init__.py").write_text("")
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", *OFFLINE, "--wheel-dir", out, source)
    (built,) = out.glob("*.whl")
    return built


def run(*command: object, cwd: Path | None = None) -> str:
    # what PYTHONPATH names would count as installed
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=cwd, env=clean)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def names(wheel: Path) -> list[str]:
    return zipfile.ZipFile(wheel).namelist()


def metadata(wheel: Path, file: str) -> str:
    (name,) = [n for n in names(wheel) if n.endswith(f".dist-info/{file}")]
    return zipfile.ZipFile(wheel).read(name).decode()


def closure(*wanted: str) -> set[str]:
    """The distributions that these need, without their extras, and themselves."""
    found: set[str] = set()
    todo = list(wanted)
    while todo:
        name = canonicalize_name(todo.pop())
        if name in found:
            continue
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        found.add(name)
        needs = map(Requirement, lines)
        todo += [n.name for n in needs if not n.marker or n.marker.evaluate({"extra": ""})]
    return found


def share(distributions: set[str], site: Path) -> None:
    """Link what these distributions installed, and nothing else, into a folder of packages."""
    for name in distributions:
        distribution = importlib.metadata.distribution(name)
        tops = {file.parts[0] for file in distribution.files or () if ".." not in file.parts}
        for top in tops - {"__pycache__"}:
            link = site / top
            if not link.exists():
                link.symlink_to(Path(str(distribution.locate_file(top))))


# ---- what is in the wheel -----------------------------------------------------------------------


def test_the_wheel_has_every_module_of_the_library_and_nothing_of_the_study(wheel):
    library = {
        "entropy_prune/" + path.relative_to(ROOT / "lib").as_posix()
        for path in (ROOT / "lib").rglob("*")
        if path.suffix in (".py", ".pyi", ".typed") and "study" not in path.parts
    }
    packed = {name for name in names(wheel) if ".dist-info/" not in name}
    assert packed == library
    assert "entropy_prune/py.typed" in packed


def test_nothing_in_the_wheel_imports_lib_or_the_study_at_import_time(wheel):
    archive = zipfile.ZipFile(wheel)
    for name in names(wheel):
        if not name.endswith(".py") or name.endswith("__main__.py"):
            continue
        for node in ast.walk(ast.parse(archive.read(name))):
            if isinstance(node, ast.Import):
                assert all(alias.name.split(".")[0] != "lib" for alias in node.names), name
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                assert node.level or base.split(".")[0] != "lib", name
                assert not node.level or base.split(".")[0] != "study", name


def test_the_version_is_said_once_and_the_metadata_is_whole(wheel):
    told = Parser().parsestr(metadata(wheel, "METADATA"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project
    assert told["Version"] == lib.__version__
    cited = re.search(r"^version: (\S+)", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited.group(1) == lib.__version__
    assert told["License-Expression"] == "MIT" and told["License-File"] == "LICENSE"
    assert "Typing :: Typed" in told.get_all("Classifier")


def test_torch_and_transformers_are_the_only_hard_dependencies(wheel):
    told = Parser().parsestr(metadata(wheel, "METADATA"))
    needs = [Requirement(line) for line in told.get_all("Requires-Dist")]
    hard = {n.name: str(n.specifier) for n in needs if n.marker is None}
    assert hard.keys() == {"torch", "transformers"}
    assert hard["transformers"] == ">=5.17", "a lower bound, no cap"
    assert {"study", "lmms-eval"} <= set(told.get_all("Provides-Extra"))
    wanted = {n.name for n in needs if n.marker and n.marker.evaluate({"extra": "lmms-eval"})}
    assert "lmms-eval" in wanted


def test_the_wheel_has_the_plug_in_and_no_command_of_the_study(wheel):
    points = metadata(wheel, "entry_points.txt")
    assert "entropy_prune = entropy_prune.plugins.lmms_eval:manifest" in points
    assert "console_scripts" not in points


# ---- the wheel at work --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def used(wheel, tmp_path_factory) -> dict:
    """What the library did in an environment of torch, transformers and what these need."""
    place = tmp_path_factory.mktemp("venv")
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    packages = place / "shared"
    packages.mkdir()
    share(closure("torch", "transformers"), packages)
    (site / "shared.pth").write_text(f"{packages}\n")
    run(sys.executable, "-m", "pip", "--python", python, "install", *OFFLINE, wheel)
    # -I: neither this folder nor PYTHONPATH is looked at
    return json.loads(run(python, "-I", "-c", USE, cwd=place))


@pytest.mark.slow
def test_the_installed_library_prunes_a_model(used):
    assert used["kept"] == [9] and used["new"] == 3
    assert used["version"] == lib.__version__
    assert "entropy" in used["methods"] and "site-packages" in used["file"]


@pytest.mark.slow
def test_the_installed_library_needs_torch_and_transformers_alone(used):
    tops = {name.split(".")[0] for name in used["modules"]}
    assert "lib" not in tops and "lmms_eval" not in tops
    assert not [name for name in used["modules"] if name.startswith("entropy_prune.study")]


# ---- the checkout -------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_editable_install_is_the_checkout_with_its_command(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in SOURCES:
        (source / name).symlink_to(ROOT / name)
    place = tmp_path / "venv"
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    share(closure("setuptools"), site)
    run(sys.executable, "-m", "pip", "--python", python, "install", *OFFLINE, "--editable", source)
    where = run(python, "-I", "-c", "import lib; print(lib.__file__)", cwd=tmp_path)
    assert Path(where.strip()).resolve() == ROOT / "lib" / "__init__.py"
    assert (place / "bin" / "entropy-prune").is_file()
    (told,) = site.glob("entropy_prune-*.dist-info")
    points = (told / "entry_points.txt").read_text()
    assert "lib.study.cli:main" in points and "lib.plugins.lmms_eval:manifest" in points
