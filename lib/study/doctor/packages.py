"""Python and the packages: what this environment holds against what the project asks for."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .finding import Finding

#: The checkout this code runs from (`lib.study.paths.ROOT` may be another folder, for outputs).
CHECKOUT = Path(__file__).resolve().parents[3]


def check_python() -> Finding:
    """Python 3.11 or newer."""
    version = platform.python_version()
    remedy = "make setup PYTHON=python3.11"
    return Finding("Python", sys.version_info >= (3, 11), f"{version} (3.11 or newer)", remedy)


@cache
def check_packages() -> Finding:
    """The direct dependencies within their bounds; differences from the lock are only told."""
    wrong = []
    for line in _dependencies():
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": "study"}):
            continue
        found = _version(requirement.name)
        if found is None:
            wrong.append(f"{requirement.name} is absent")
        elif not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found} (needs {requirement.specifier})")
    if wrong:
        return Finding("packages", False, "; ".join(wrong), "make setup")
    lock = CHECKOUT / "requirements.lock"
    if not lock.is_file():
        return Finding("packages", True, "all there (no requirements.lock to compare with)")
    return Finding("packages", True, _against_lock(lock.read_text(encoding="utf-8")))


def _against_lock(lock: str) -> str:
    pins = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;#]+)", lock, re.MULTILINE))
    installed = {name: _version(canonicalize_name(name)) for name in pins}
    # a local part such as +cu128 names the build of the same version
    differ = [
        f"{name} {installed[name] or 'absent'} (lock: {pin})"
        for name, pin in pins.items()
        if installed[name] is None or installed[name].split("+")[0] != pin.split("+")[0]
    ]
    detail = f"{len(pins) - len(differ)} of {len(pins)} as locked"
    if differ:
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        detail += f"; differing: {', '.join(differ[:3])}{more}"
    return detail


def _dependencies() -> list[str]:
    """What the library and the study need."""
    pyproject = CHECKOUT / "pyproject.toml"
    if pyproject.is_file():
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        return project["dependencies"] + project["optional-dependencies"]["study"]
    return importlib.metadata.requires("entropy-prune") or []


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
