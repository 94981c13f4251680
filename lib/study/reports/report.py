"""What can be asked of the reports: run notebooks, write pages, draw figures, all of it.

Everything happens in the place that is looked at (`lib.study.paths`): a run's pages and figures lie
below `build/reproduce/<profile>/`, the reference's in `reports/` and `figures/`. Notebooks are
committed executed, in `notebooks/`; those executed for another profile, or by a run, are kept below
`build/reproduce/<profile>/notebooks/`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm.auto import tqdm

from .. import paths
from ..compare import compare_run
from ..files import write_atomically
from ..profiles import OWN, load_profile
from . import drawing, pages
from . import notebooks as books
from .comparison import comparison_page
from .index import index_page
from .kernel import sharing_cores
from .notebooks import NotebookFailed, relative

__all__ = [
    "NotebookFailed",
    "chosen",
    "executed",
    "figures",
    "html",
    "index",
    "page",
    "refresh",
    "run",
    "run_all",
    "update",
]


def chosen(profile: str) -> list[Path]:
    """The notebooks that a profile runs: all of them, or those it names."""
    named = load_profile(profile).notebooks.split()
    return [path for path in books.notebooks() if not named or path.name[:2] in named]


def _executed_dir(profile: str) -> Path:
    """Where the notebooks are kept that were executed for a profile."""
    return paths.run_folder(profile) / "notebooks"


def executed(profile: str) -> list[Path]:
    """The executed notebooks that the pages of a profile are made from."""
    if profile == OWN and paths.current(profile) == paths.reference(profile):
        return books.notebooks()
    folder = _executed_dir(profile)
    return [p for p in sorted(folder.glob("*.ipynb")) if books.REPORTED.fullmatch(p.name)]


# ---------------------------------------------------------------------------- running


def run(notebook: Path, profile: str, *, progress: bool = True, forked: bool = False) -> Path:
    """Execute a notebook with a profile; returns the executed one.

    Earlier output of this notebook, its page and the index go first, so a failure or a kill leaves
    nothing that looks finished. forked: see `lib.study.reports.notebooks.execute`.

    Raises `NotebookFailed`.
    """
    output, shown = _executed_dir(profile) / notebook.name, paths.reports_dir(profile)
    for old in (output, shown / f"{notebook.stem}.html", shown / "index.html"):
        old.unlink(missing_ok=True)
    log = paths.ROOT / "build" / "logs" / profile / f"{notebook.stem}.log"
    given = books.parameters(profile, notebook)
    books.execute(notebook, output, given, log=log, progress=progress, forked=forked)
    return output


def run_all(
    profile: str, only: Sequence[Path] = (), *, jobs: int = 2, progress: bool = True
) -> list[Path]:
    """Execute a profile's notebooks, all or `only` some, `jobs` at once, each in its own kernel.

    Raises `NotebookFailed`, with every failure, when all the others have run.
    """
    todo = only or chosen(profile)
    several = len(todo) > 1
    return _each(
        todo, lambda path: run(path, profile, progress=False, forked=several), jobs, progress
    )


def update(notebooks: Sequence[Path], *, jobs: int = 1, progress: bool = True) -> list[Path]:
    """Execute notebooks in place with their default parameters, as they are committed.

    A file changes only if every cell ran. Raises `NotebookFailed`, see `run_all`.
    """

    def one(notebook: Path) -> Path:
        log = paths.ROOT / "build" / "logs" / "update" / f"{notebook.stem}.log"
        several = len(notebooks) > 1
        books.execute(notebook, notebook, {}, log=log, progress=False, forked=several)
        return notebook

    return _each(notebooks, one, jobs, progress)


def _each(
    todo: Sequence[Path], work: Callable[[Path], Path], jobs: int, progress: bool
) -> list[Path]:
    made: list[Path] = []
    failures: list[str] = []

    def attempt(notebook: Path) -> None:
        try:
            made.append(work(notebook))
        except NotebookFailed as error:
            failures.append(str(error))

    bar = tqdm(total=len(todo), desc="notebooks", unit="notebook", disable=not progress)
    with sharing_cores(jobs), ThreadPoolExecutor(jobs) as pool, bar:
        for _ in pool.map(attempt, todo):
            bar.update()
    if failures:
        raise NotebookFailed("\n".join(failures))
    return sorted(made)


def figures(profile: str, *, progress: bool = True) -> Path:
    """Draw the figures and tables of a profile from stored results; returns their folder."""
    drawing.draw(profile, progress=progress)
    return paths.figures_dir(profile)


# ---------------------------------------------------------------------------- pages


def page(notebook: Path, profile: str) -> Path:
    """The page of an executed notebook."""
    target = paths.reports_dir(profile) / f"{notebook.stem}.html"
    pages.render(notebook, target, profile=profile, drawn=paths.figures_dir(profile))
    return target


def index(profile: str) -> Path:
    """`index.html` of a profile with its style sheet; a run is compared with the reference."""
    folder, drawn = paths.reports_dir(profile), paths.figures_dir(profile)
    folder.mkdir(parents=True, exist_ok=True)
    pages.write_style(folder)
    here, run = paths.current(profile), paths.run(profile)
    if here == run and (run.results / "study.json").is_file():
        compare_run(profile)
    if (compared := comparison_page(profile, folder)) is not None:
        write_atomically(folder / "comparison.html", compared)
    target = folder / "index.html"
    write_atomically(target, index_page(profile, folder, executed(profile), drawn=drawn))
    return target


def html(profile: str) -> list[Path]:
    """Pages of all executed notebooks and the index; returns what was written."""
    found = executed(profile)
    if not found:
        raise FileNotFoundError(
            f"{relative(_executed_dir(profile))} holds no executed notebook: "
            f"'make reproduce PROFILE={profile}' makes them"
        )
    written = [*(page(path, profile) for path in found), index(profile)]
    kept = {*written, paths.reports_dir(profile) / "comparison.html"}
    for old in set(paths.reports_dir(profile).glob("*.html")) - kept:
        old.unlink()
    return written


def refresh(profile: str, *, jobs: int = 2, progress: bool = True) -> list[Path]:
    """Figures, tables and pages of the reference, after its results have changed.

    The notebooks are executed in place, for the profile they are committed with. Others may need a
    GPU: their pages are made from what the run that was published has executed.
    """
    with paths.looking_at(paths.REFERENCE):
        if profile == OWN:
            update(chosen(profile), jobs=jobs, progress=progress)
        return html(profile)
