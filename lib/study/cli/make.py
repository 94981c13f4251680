"""Commands that make a study: its images, captions, scores and costs, and what becomes of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import paths
from .options import Device, Profile, Quiet, Workers, several, shown


def study(
    profile: Profile = "embedded",
    device: Device = None,
    workers: Workers = None,
    stages: Annotated[
        str | None, typer.Option(help="only these; 'scores' needs records, but no model")
    ] = None,
    table: Annotated[
        bool, typer.Option("--table", help="only the paper's rows of Table 1; print their scores")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Compute what a profile needs, once: captions, divergences, scores, costs.

    A stopped run continues.
    """
    from .. import run as studying
    from ..fitting import check
    from ..methods import table_1
    from ..profiles import load_profile
    from ..stages.sharing import default_workers, suited
    from ..stages.study import Study

    settings = suited(load_profile(profile), device)
    wanted = several(stages, str, "--stages") if stages else list(studying.STAGES)
    if studying.needs_model(wanted):
        check(settings)
    only = table_1(settings) if table else None
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        studying.share(Study(settings, device, not quiet), stages=wanted, only=only)
        return
    how = {
        "device": device,
        "progress": not quiet,
        "workers": workers or default_workers(settings, device),
    }
    if table:
        print(studying.table(settings, **how))
        return
    document = studying.run(settings, stages=wanted, **how)
    seconds = (f"{name} {value:.0f} s" for name, value in document["seconds"].items())
    print(f"{profile}: {', '.join(seconds)}")


def reproduce(
    notebooks: Annotated[
        list[Path] | None, typer.Argument(help="only these, of a finished study; default all")
    ] = None,
    profile: Profile = "embedded",
    device: Device = None,
    jobs: Annotated[int, typer.Option(min=1, help="notebooks at once")] = 2,
    quiet: Quiet = False,
) -> None:
    """The study of a profile, its notebooks, the comparison and the pages: make without Make."""
    from .. import forking
    from ..cores import cpu_workers, environment_of_workers

    # what is forked later imports while this process does
    if not notebooks and device in (None, "cpu"):
        forking.warm(environment_of_workers(cpu_workers()))
    from .. import run as studying
    from ..compare import compare_run, load_comparison
    from ..fitting import check
    from ..profiles import load_profile
    from ..reports import report
    from ..stages.sharing import default_workers, suited

    # whole paths: a notebook that runs changes the working folder
    chosen, here = [path.resolve() for path in notebooks or ()], Path.cwd()
    if not chosen:
        settings = suited(load_profile(profile), device)
        check(settings)
        workers = default_workers(settings, device)
        studying.run(settings, device=device, progress=not quiet, workers=workers)
    with paths.looking_at(paths.RUN):
        report.run_all(profile, chosen, jobs=jobs, progress=not quiet)
        report.html(profile)
    # the pages were made from it; where there is no study to compare, this says so
    _tell(profile, load_comparison(profile) or compare_run(profile), here)


def data(profile: Profile = "embedded", quiet: Quiet = False) -> None:
    """Get the images of a profile: draw the scenes, or download those of its data set."""
    from ..examples import fetch
    from ..profiles import load_profile
    from ..stages.sharing import suited

    images = fetch(suited(load_profile(profile), None), progress=not quiet)
    print(f"{profile}: {len(images)} images below {images[0].path.parent.parent}")


def compare(
    profile: Profile = "embedded",
    keep: Annotated[
        bool, typer.Option("--keep", help="a CPU's run: keep what is found beside the reference")
    ] = False,
) -> None:
    """Say what a run has different from the committed reference of its profile."""
    from ..compare import compare_run
    from ..machines import keep_comparison

    if keep:
        print(keep_comparison(profile))
    else:
        _tell(profile, compare_run(profile), Path.cwd())


def publish(profile: Profile = "embedded") -> None:
    """Make a finished run the committed reference of its profile (for maintainers)."""
    from ..publish import publish_run
    from ..reports import report

    print("\n".join(publish_run(profile)))
    report.refresh(profile)


def _tell(profile: str, compared: Mapping[str, Any], here: Path) -> None:
    """What a run ends with: the comparison, and where its pages are, seen from a folder."""
    from ..compare import summary

    print(summary(compared))
    index = paths.run(profile).reports / "index.html"
    if index.is_file():
        print(f"Open {shown(index, here)}")


COMMANDS = (study, reproduce, data, compare, publish)
