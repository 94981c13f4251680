"""What a notebook says first of where it stands."""

from __future__ import annotations

from .. import paths
from ..records import environment

__all__ = ["setting"]


def setting(profile: str) -> dict[str, str]:
    """Where a notebook reads, where it draws, and with which versions."""
    read, drawn = paths.results_dir(profile), paths.figures_dir(profile)
    places = {"reads": read, "draws": drawn}
    shown = {name: str(path.relative_to(paths.ROOT)) for name, path in places.items()}
    return shown | environment()["versions"]
