"""What the commands need of the machine: tried, not guessed.

Each check does in small what a command does: it writes where results go, scores a caption under
this machine's locale, starts what notebooks start.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from huggingface_hub import constants
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from .. import paths
from ..evaluation import JavaError
from ..evaluation.meteor import Meteor
from ..evaluation.tokens import tokenize
from .finding import Finding

#: Room that results, figures, reports and drawn images need besides the downloads, in bytes.
WORKSPACE_BYTES = 1_000_000_000
#: Letters, signs and numbers that pages, tables and messages hold.
SIGNS = "é–×→"


def check_checkout() -> Finding:
    """Can results, downloads and pages be written?"""
    folders = [paths.ROOT / "build", paths.raw_dir()]
    refused = [f"{folder} ({reason})" for folder in folders if (reason := _refusal(folder))]
    if not refused:
        return Finding("checkout", True, f"{paths.ROOT} can be written")
    return Finding(
        "checkout",
        False,
        f"cannot write {' and '.join(refused)}",
        f"chmod -R u+w {paths.ROOT}, or work in a clone of your own",
    )


def _refusal(folder: Path) -> str | None:
    """Why nothing can be written to a folder (or where it would be made); None if it can."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        return error.strerror or str(error)
    return None


def check_temporary() -> Finding:
    """A temporary folder that can be written; one that forbids running programs is only told."""
    asked = os.environ.get("TMPDIR")
    try:
        folder = Path(tempfile.gettempdir())
    except OSError as error:
        return Finding("temporary", False, f"no folder is usable: {error}", "export TMPDIR=...")
    if reason := _refusal(folder):
        detail = f"cannot write {folder} ({reason})"
        return Finding("temporary", False, detail, "export TMPDIR= a folder that can be written")
    detail = f"{folder}"
    if asked and Path(asked) != folder:
        detail += f" (not {asked}, which cannot be used)"
    if not _runs_programs(folder):
        detail += "; programs cannot be run there (noexec): only compiled decoding needs that"
    return Finding("temporary", True, detail)


def _runs_programs(folder: Path) -> bool:
    script = None
    try:
        descriptor, script = tempfile.mkstemp(dir=folder, suffix=".sh")
        os.write(descriptor, b"#!/bin/sh\nexit 0\n")
        os.close(descriptor)
        os.chmod(script, 0o700)
        return subprocess.run([script], capture_output=True).returncode == 0
    except OSError:
        return False
    finally:
        if script is not None:
            os.unlink(script)


def check_terminal() -> Finding:
    """The encodings of the terminal and of file names; the commands run under any."""
    terminal, names = sys.stdout.encoding or "ascii", sys.getfilesystemencoding()
    notes = []
    if not _encodes(terminal):
        notes.append("signs it lacks are shown as '?'")
    if not _encodes(names):
        notes.append(f"file names in {names}: images must have ASCII names")
    detail = "; ".join([f"{terminal}", *notes])
    remedy = "export LC_ALL=C.UTF-8 PYTHONIOENCODING=utf-8"
    return Finding("terminal", not notes, detail, remedy if notes else "", needed=False)


def _encodes(encoding: str) -> bool:
    try:
        SIGNS.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


@cache
def check_java() -> Finding:
    """Java starts under this machine's locale, and tokenises letters that ASCII lacks."""
    try:
        found = tokenize({0: ["INSIDE a Café."]})[0]
    except JavaError as error:
        return Finding("Java", False, _line(error), "make setup")
    if found != ["inside a café"]:
        return Finding(
            "Java", False, f"the tokenizer makes {found} of 'INSIDE a Café.'", "make setup"
        )
    return Finding("Java", True, "starts and tokenises captions")


@cache
def check_meteor() -> Finding:
    """METEOR scores a caption (it takes seconds to load its tables)."""
    try:
        with Meteor() as meteor:
            *_, score = meteor.score(["a dog runs"], [["a dog runs"]])
    except JavaError as error:
        return Finding("METEOR", False, _line(error), "make setup")
    return Finding("METEOR", score == 1, f"scores a perfect caption {score:g}", "make setup")


def _line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1].strip()}"


def check_kernel() -> Finding:
    """The kernel of the notebooks: this interpreter's own, whatever else is called python3."""
    if importlib.util.find_spec("ipykernel") is None:
        return Finding("notebooks", False, "ipykernel is absent", "make setup")
    try:
        program = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except (NoSuchKernel, IndexError, OSError, ValueError):
        program = sys.executable
    if Path(program).name == program or _same(program, sys.executable):
        return Finding("notebooks", True, f"kernel: {sys.executable}")
    return Finding(
        "notebooks",
        False,
        f"JupyterLab would take {program} for 'python3' (make reproduce takes {sys.executable})",
        "unset JUPYTER_PATH, or choose the kernel of .venv in JupyterLab",
        needed=False,
    )


def _same(one: str, other: str) -> bool:
    """Do two commands start one interpreter of one environment?"""
    return Path(one).absolute() == Path(other).absolute()


def check_disk(findings: Sequence[Finding], cache_dir: Path | None = None) -> Finding:
    """Is there room for what would be downloaded, per file system, and for the results?"""
    wanted: dict[Path, int] = {paths.ROOT: WORKSPACE_BYTES}
    for finding in findings:
        if not finding.good and finding.needed and finding.download:
            hub = Path(cache_dir or constants.HF_HUB_CACHE)
            folder = hub if finding.item == "model" else paths.raw_dir()
            wanted[folder] = wanted.get(folder, 0) + finding.download + finding.unpacked
    devices: dict[int, tuple[Path, int]] = {}
    for folder, size in wanted.items():
        existing = folder
        while not existing.exists():
            existing = existing.parent
        device = existing.stat().st_dev
        place, sum_ = devices.get(device, (existing, 0))
        devices[device] = (place, sum_ + size)
    parts, good = [], True
    for place, size in devices.values():
        free = shutil.disk_usage(place).free
        good &= free >= size
        parts.append(f"{free / 1e9:.1f} GB free, {size / 1e9:.1f} GB needed in {place}")
    return Finding("disk", good, "; ".join(parts), "free some space, or set HF_HOME and COCO_ROOT")
