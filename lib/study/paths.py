"""Where the data, results, figures and reports of a profile live; no other module spells a path."""

import os
from pathlib import Path

#: The package, `lib/`.
PACKAGE = Path(__file__).resolve().parents[1]
#: The checkout, or the folder that `ENTROPY_PRUNE_ROOT` names (tests redirect all output with it).
ROOT = Path(os.environ.get("ENTROPY_PRUNE_ROOT", PACKAGE.parent))


def data_dir() -> Path:
    """The data folder of the checkout, `data/`."""
    return ROOT / "data"


def raw_dir() -> Path:
    """Downloads and generated images, `data/raw/`: never committed, safe to delete."""
    return data_dir() / "raw"


def embedded_dir() -> Path:
    """The model that ships with the repository, `data/embedded/`."""
    return data_dir() / "embedded"


def results_dir(profile: str) -> Path:
    """Records and manifests of a profile, `data/results/<profile>/`."""
    return data_dir() / "results" / _checked(profile)


def figures_dir(profile: str) -> Path:
    """Figures and tables of a profile, `figures/<profile>/`."""
    return ROOT / "figures" / _checked(profile)


def reports_dir(profile: str) -> Path:
    """Executed notebooks and HTML of a profile, `reports/<profile>/`."""
    return ROOT / "reports" / _checked(profile)


def _checked(profile: str) -> str:
    if not profile or profile != Path(profile).name or profile.startswith("."):
        raise ValueError(f"profile must be a plain folder name such as 'embedded', got {profile!r}")
    return profile
