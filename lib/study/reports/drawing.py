"""The figures alone: the code of every notebook in this process, without kernels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import nbformat
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib import pyplot
from tqdm.auto import tqdm

from .. import paths
from ..files import write_atomically
from . import notebooks as books
from .notebooks import NotebookFailed

__all__ = ["draw"]


def draw(profile: str, *, progress: bool = True) -> None:
    """Run the code of every notebook for its figures and tables.

    Much faster than a kernel each, since libraries are loaded once; nothing but the profile's
    figures is written. Raises `NotebookFailed`.
    """
    matplotlib.use("agg")
    for notebook in tqdm(books.notebooks(), desc="figures", unit="notebook", disable=not progress):
        _draw(notebook, books.parameters(profile, notebook), profile)


def _draw(notebook: Path, given: Mapping[str, Any], profile: str) -> None:
    document = nbformat.read(str(notebook), as_version=4)
    shell, here = InteractiveShell(), Path.cwd()
    shell.colors = "nocolor"
    os.chdir(notebook.parent)
    try:
        for number, cell in enumerate(document.cells, start=1):
            if cell.cell_type != "code":
                continue
            with capture_output() as said:
                result = shell.run_cell(cell.source)
            if error := result.error_before_exec or result.error_in_exec:
                log = paths.ROOT / "build" / "logs" / profile / f"{notebook.stem}.log"
                write_atomically(log, f"{cell.source}\n\n{said.stdout}\n{said.stderr}")
                failed = books.failure(notebook, (number, cell.source), error, log)
                raise NotebookFailed(failed) from error
            if "parameters" in cell.metadata.get("tags", ()):
                shell.push(dict(given))
    finally:
        os.chdir(here)
        pyplot.close("all")
