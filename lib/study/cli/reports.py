"""`lib report ...`: notebooks, figures and pages of a profile, in the place that is looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import paths
from .options import Place, Profile, Quiet, shown

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

    # whole paths: a notebook that runs changes the working folder
    chosen = [path.resolve() for path in notebooks or ()]
    here = Path.cwd()
    with paths.looking_at(place):
        made = report.run_all(profile, chosen, jobs=jobs, progress=not quiet)
    print(*(shown(path, here) for path in made), sep="\n")


def html(profile: Profile = "embedded", place: Place = "run") -> None:
    """Write the pages of what was executed, and the index."""
    from ..reports import report

    with paths.looking_at(place):
        made = report.html(profile)
    print(*map(shown, made), sep="\n")


def figures(profile: Profile = "embedded", place: Place = "run", quiet: Quiet = False) -> None:
    """Draw figures and tables from stored results, without executing notebooks in kernels."""
    from ..reports import report

    with paths.looking_at(place):
        print(shown(report.figures(profile, progress=not quiet)))


def update(notebooks: list[Path], quiet: Quiet = False) -> None:
    """Execute notebooks in place, as they are committed, from the reference's results."""
    from ..reports import report

    with paths.looking_at("reference"):
        report.update([path.resolve() for path in notebooks], progress=not quiet)


def refresh(profile: Profile = "embedded", jobs: Jobs = 2, quiet: Quiet = False) -> None:
    """Notebooks, figures and pages of the reference, from its results (for maintainers)."""
    from ..reports import report

    made = report.refresh(profile, jobs=jobs, progress=not quiet)
    print(*map(shown, made), sep="\n")


def reference(folder: Path) -> None:
    """Lay out a root for nbval, in which nothing that is drawn touches the checkout."""
    from ..reports import roots

    print(roots.reference_root(folder.resolve()))


def docs() -> None:
    """Make anew what of README.md and docs/ is made from results and methods (for maintainers)."""
    from ..reports import docs as pages

    with paths.looking_at("reference"):
        print(*map(shown, pages.write()), sep="\n")


COMMANDS = (run, html, figures, update, refresh, reference, docs)
