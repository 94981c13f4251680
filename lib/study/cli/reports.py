"""`lib report ...`: notebooks, figures and pages of a profile, in the place that is looked at."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

from .. import paths
from .options import Place, Profile, Quiet

Notebooks = Annotated[list[Path] | None, typer.Argument(help="default all of the profile")]
Jobs = Annotated[int, typer.Option(min=1, help="notebooks at once")]


def run(
    notebooks: Notebooks = None,
    profile: Profile = "embedded",
    place: Place = "run",
    jobs: Jobs = 2,
    quiet: Quiet = False,
) -> None:
    """Execute notebooks with a profile; the notebooks themselves stay as they are."""
    from ..reports import report

    with paths.looking_at(place):
        if not notebooks:
            made = report.notebooks(profile, jobs=jobs, progress=not quiet)
        else:
            with ThreadPoolExecutor(jobs) as pool:
                made = list(
                    pool.map(
                        lambda path: report.run(path.resolve(), profile, progress=not quiet),
                        notebooks,
                    )
                )
    print(*map(_shown, made), sep="\n")


def html(profile: Profile = "embedded", place: Place = "run") -> None:
    """Write the pages of what was executed, and the index."""
    from ..reports import report

    with paths.looking_at(place):
        print(*map(_shown, report.html(profile)), sep="\n")


def figures(profile: Profile = "embedded", place: Place = "run", quiet: Quiet = False) -> None:
    """Draw figures and tables from stored results, without executing notebooks in kernels."""
    from ..reports import report

    with paths.looking_at(place):
        print(_shown(report.figures(profile, progress=not quiet)))


def update(notebooks: list[Path], quiet: Quiet = False) -> None:
    """Execute notebooks in place, as they are committed, from the reference's results."""
    from ..reports import report

    with paths.looking_at("reference"):
        report.update([path.resolve() for path in notebooks], progress=not quiet)


def refresh(profile: Profile = "embedded", jobs: Jobs = 2, quiet: Quiet = False) -> None:
    """Notebooks, figures and pages of the reference, from its results (for maintainers)."""
    from ..reports import report

    made = report.refresh(profile, jobs=jobs, progress=not quiet)
    print(*map(_shown, made), sep="\n")


def reference(folder: Path) -> None:
    """Lay out a root for nbval, in which nothing that is drawn touches the checkout."""
    from ..reports import report

    print(report.reference_root(folder.resolve()))


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


COMMANDS = (run, html, figures, update, refresh, reference)
