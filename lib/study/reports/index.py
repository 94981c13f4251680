"""`index.html` of a profile: Table 1, all figures, what differs from the paper, environment."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Sequence
from pathlib import Path

import nbformat
import yaml
from markupsafe import Markup

from .. import claims, paths
from ..profiles import load_profile
from ..stored import load_study
from .grounds import grounds
from .notebooks import title_of
from .pages import banner, figures, page
from .tables import table1
from .tables.format import html

__all__ = ["deviations", "index_page"]

#: the notebook with the verdicts
CLAIMS = "09_claims"
TITLE = "Entropy-Prune: the study, reproduced"


@functools.cache
def deviations() -> list[dict[str, str]]:
    """`deviations.yaml`: what differs from the paper, each with `what` and `text`."""
    text = Path(__file__).with_name("deviations.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def index_page(profile: str, folder: Path, executed: Sequence[Path], *, drawn: Path) -> str:
    """The page that `folder` shows first.

    executed: the notebooks whose pages lie there. drawn: the folder of the profile's figures.
    """
    documents = {path: nbformat.read(str(path), as_version=4) for path in executed}
    judging = claims.profiles(profile)
    scored = (paths.results_dir(profile) / "scores.json").is_file()
    return page(
        "index.html.j2",
        title=TITLE,
        profile=profile,
        description=load_profile(profile).description,
        banner=banner(profile),
        comparison=(folder / "comparison.html").is_file(),
        pages=[
            {"name": f"{path.stem}.html", "title": title_of(document)}
            for path, document in documents.items()
        ],
        grounds=grounds(profile),
        judged=next((f"{path.stem}.html" for path in executed if path.stem == CLAIMS), ""),
        claims=Markup(html(claims.table(judging).reset_index(), index=False)) if judging else "",
        verdicts=claims.summary(judging) if judging else "",
        table1=Markup(table1.html_blocks(profile)) if scored else "",
        figures=[_figure(figure, folder) for figure in figures(drawn)],
        deviations=deviations(),
        environment=_environment(profile, documents),
    )


def _figure(figure, folder: Path) -> dict[str, str]:
    vector = figure.path.with_suffix(".svg")
    return {
        "name": figure.name,
        "caption": figure.caption,
        "alt": figure.alt,
        "link": os.path.relpath(figure.path, folder),
        "vector": os.path.relpath(vector, folder) if vector.is_file() else "",
    }


def _environment(profile: str, documents: dict) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    with contextlib.suppress(FileNotFoundError):
        document = load_study(profile)
        made = document["environment"]
        rows.append(("Versions", ", ".join(f"{k} {v}" for k, v in made["versions"].items())))
        rows.append(("Computed on", f"{made['platform']}, {made.get('device') or 'cpu'}"))
        for stage, seconds in document["seconds"].items():
            rows.append((f"Computing: {stage}", f"{seconds:.0f} s"))
        if agreement := document.get("agreement"):
            rows.append(
                (
                    "Compared with the published records",
                    f"{agreement['same']} of {agreement['of']} captions and counts are the same",
                )
            )
    for path, notebook in documents.items():
        seconds = notebook.metadata.get("papermill", {}).get("duration")
        if seconds is not None:
            rows.append((path.name, f"{seconds:.0f} s"))
    return rows
