"""The lock, pyproject.toml and environment.yml name the same versions."""

import re
import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from lib.study.paths import ROOT


def locked() -> dict[str, Version]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pins}


def conda() -> dict[str, Version]:
    document = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [d["pip"] for d in document["dependencies"] if isinstance(d, dict)]
    pins = [entry.split("==") for entry in pip if not entry.startswith("-")]
    return {canonicalize_name(name): Version(version) for name, version in pins}


def declared() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + extras["study"] + extras["test"]
    return [Requirement(line) for line in lines if not line.startswith("entropy-prune[")]


def test_environment_yml_pins_what_the_lock_pins():
    lock = locked()
    assert {name: lock.get(name) for name in conda()} == conda()


def test_every_declared_dependency_is_locked_and_in_environment_yml():
    lock, environment = locked(), conda()
    for requirement in declared():
        name = canonicalize_name(requirement.name)
        assert lock[name] in requirement.specifier, f"{name}: {lock[name]} is locked"
        assert name in environment, f"{name} is missing from environment.yml"


def test_every_pin_in_environment_yml_has_a_reason():
    for line in (ROOT / "environment.yml").read_text().splitlines():
        if "==" in line:
            assert re.search(r"  # \S", line), line


def test_the_packages_of_the_card_are_there():
    card = {
        "jupyterlab", "papermill", "torch", "transformers", "scikit-learn",
        "matplotlib", "seaborn", "pycocoevalcap", "nbval",
    }  # fmt: skip
    assert card <= conda().keys()
