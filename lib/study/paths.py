"""Where the data, results, figures and reports of a profile live; no other module spells a path.

Two *places* hold what belongs to a profile. The *reference* is committed:
`data/results/<profile>/`, `figures/<profile>/` and `reports/<profile>/`. A *run* is what
`make reproduce` computes, all of it below `build/reproduce/<profile>/`, so that nothing tracked
changes. Readers and notebooks look at one of them: the reference, unless `ENTROPY_PRUNE_PLACE`
says "run", which processes and kernels that a run starts inherit.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: The package, `lib/`.
PACKAGE = Path(__file__).resolve().parents[1]
#: The checkout, or the folder that `ENTROPY_PRUNE_ROOT` names (tests redirect all output with it).
ROOT = Path(os.environ.get("ENTROPY_PRUNE_ROOT", PACKAGE.parent))
#: The variable that names the place, and the names it takes.
VARIABLE, REFERENCE, RUN = "ENTROPY_PRUNE_PLACE", "reference", "run"


@dataclass(frozen=True)
class Place:
    """The folders of a profile in one place.

    results: records, manifests, scores and costs. figures: pictures and tables. reports: pages.
    """

    results: Path
    figures: Path
    reports: Path


def reference(profile: str) -> Place:
    """What is committed of a profile."""
    name = checked(profile)
    return Place(data_dir() / "results" / name, ROOT / "figures" / name, ROOT / "reports" / name)


def run_folder(profile: str) -> Path:
    """All that `make reproduce` makes of a profile: `build/reproduce/<profile>/`."""
    return ROOT / "build" / "reproduce" / checked(profile)


def run(profile: str) -> Place:
    """What this machine has computed of a profile."""
    folder = run_folder(profile)
    return Place(folder / "results", folder / "figures", folder / "reports")


def current(profile: str) -> Place:
    """The place that is looked at: the reference, unless `ENTROPY_PRUNE_PLACE` is "run".

    Raises `ValueError` for another value of the variable.
    """
    name = os.environ.get(VARIABLE) or REFERENCE
    if name not in (REFERENCE, RUN):
        raise ValueError(f"{VARIABLE} must be {REFERENCE!r} or {RUN!r}, got {name!r}")
    return run(profile) if name == RUN else reference(profile)


@contextmanager
def looking_at(place: str) -> Iterator[None]:
    """Look at "reference" or "run" inside the block, in processes started there as well."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = place
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def data_dir() -> Path:
    """The data folder of the checkout, `data/`."""
    return ROOT / "data"


def raw_dir() -> Path:
    """Downloads and generated images, `data/raw/`: never committed, safe to delete."""
    return data_dir() / "raw"


def embedded_dir() -> Path:
    """The model that ships with the repository, `data/embedded/`."""
    return data_dir() / "embedded"


def profiles_dir() -> Path:
    """The profiles, `notebooks/profiles/`."""
    return ROOT / "notebooks" / "profiles"


def results_dir(profile: str) -> Path:
    """Records and manifests of a profile, in the current place."""
    return current(profile).results


def figures_dir(profile: str) -> Path:
    """Figures and tables of a profile, in the current place."""
    return current(profile).figures


def reports_dir(profile: str) -> Path:
    """Pages of a profile, in the current place."""
    return current(profile).reports


def measured(profile: str, name: str) -> Path:
    """A record that a command of its own measures, such as "benchmark.json".

    That of the current place; a run that has none of its own looks at the reference's.
    """
    own = results_dir(profile) / name
    return own if own.is_file() else reference(profile).results / name


def checked(profile: str) -> str:
    """The name of a profile; raises `ValueError` unless it is a plain folder name."""
    if not profile or profile != Path(profile).name or profile.startswith("."):
        raise ValueError(f"profile must be a plain folder name such as 'embedded', got {profile!r}")
    return profile
