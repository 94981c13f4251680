"""What a result was made with."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

from ... import __version__


def environment(**extra: Any) -> dict[str, Any]:
    """What a run was made with: library versions, platform, and the caller's own entries."""
    versions = {"python": platform.python_version(), "entropy-prune": __version__}
    for name in ("torch", "transformers", "numpy", "pycocoevalcap"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "versions": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        **extra,
    }


def processor() -> str:
    """The name of the processor, which decides how sums round."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        line = next(line for line in lines if line.startswith("model name"))
        return " ".join(line.partition(":")[2].split())
    return platform.processor() or "unknown"
