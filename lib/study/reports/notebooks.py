"""Run a notebook through papermill: whole or not at all, in this interpreter, without traces.

An executed notebook appears when it has run to its end, never before. What differs from machine to
machine and says nothing (paths, dates, progress bars) is left out, so that an unchanged notebook
keeps its bytes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbformat import NotebookNode

from .. import paths
from ..files import write_atomically
from ..profiles import load_profile
from .kernel import KERNEL, ForkedKernel, OwnKernel

__all__ = ["NotebookFailed", "execute", "failure", "notebooks", "parameters", "tidy", "title_of"]

WIDGET = "application/vnd.jupyter.widget-view+json"
#: notebooks of a report; 90 and above (training) are run by hand
REPORTED = re.compile(r"[0-8]\d_\w+\.ipynb")
#: the kernel's own log would reach the terminal; errors of cells come as outputs
_QUIET_KERNEL = ["--log-level=50"]


logging.getLogger("papermill").setLevel(logging.ERROR)


class NotebookFailed(RuntimeError):
    """A notebook stopped; the message names it, the cell and the log."""


def notebooks() -> list[Path]:
    """The notebooks of a report, in order."""
    folder = paths.ROOT / "notebooks"
    return sorted(path for path in folder.glob("*.ipynb") if REPORTED.fullmatch(path.name))


def parameters(profile: str, notebook: Path) -> dict[str, Any]:
    """What a profile says of the notebook's parameters."""
    return load_profile(profile).parameters(papermill.inspect_notebook(str(notebook)))


def title_of(document: NotebookNode) -> str:
    """The first heading of a notebook, without mark-up."""
    for cell in document.cells:
        if cell.cell_type == "markdown" and cell.source.lstrip().startswith("# "):
            line = cell.source.lstrip().splitlines()[0][2:]
            return re.sub(r"[*`_]", "", line).strip()
    return "Untitled"


def execute(
    notebook: Path,
    output: Path,
    given: Mapping[str, Any],
    *,
    log: Path,
    progress: bool = True,
    forked: bool = False,
) -> None:
    """Run a notebook into `output`, which appears, or changes, only when every cell has run.

    given: values of its parameters. `output` may be the notebook itself. forked: the kernel may be
    forked (`lib.study.forking`): quicker if it is one of several.

    Raises `NotebookFailed`, naming the notebook, the cell and `log`; the notebook as far as it got
    lies beside the log.
    """
    if not notebook.is_file():
        raise NotebookFailed(f"no notebook {notebook}")
    running = log.with_suffix(".ipynb")
    log.parent.mkdir(parents=True, exist_ok=True)
    for old in (log, running):
        old.unlink(missing_ok=True)
    try:
        document = papermill.execute_notebook(
            str(notebook),
            str(running),
            parameters=dict(given),
            cwd=str(notebook.parent),
            kernel_name=KERNEL,
            kernel_manager_class=ForkedKernel if forked else OwnKernel,
            extra_arguments=_QUIET_KERNEL,
            progress_bar={"desc": notebook.stem} if progress else False,
        )
        write_atomically(output, nbformat.writes(tidy(document)) + "\n")
        running.unlink()
    except Exception as error:
        cell = _failed_cell(running)
        write_atomically(log, _log_text(notebook, given, cell, error))
        raise NotebookFailed(failure(notebook, cell, error, log)) from error


def tidy(document: NotebookNode) -> NotebookNode:
    """Drop what differs from run to run and says nothing: paths, dates, ids, progress bars."""
    made = document.metadata.get("papermill") or {}
    document.metadata.clear()
    document.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": KERNEL,
    }
    document.metadata["language_info"] = {"name": "python"}
    if made.get("parameters"):
        document.metadata["papermill"] = {
            "duration": round(made.get("duration") or 0, 1),
            "parameters": made["parameters"],
        }
    for cell in document.cells:
        for key in ("papermill", "execution", "ExecuteTime", "widgets"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        elif "injected-parameters" in cell.metadata.get("tags", ()):
            cell["id"] = "injected-parameters"
        if cell.cell_type == "code":
            cell.outputs = _settled(cell.outputs)
    return document


def _settled(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs without what a kernel's timing or random ids decide."""
    kept: list[NotebookNode] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        # how printed text falls into messages is chance
        if kept and output.get("name") == kept[-1].get("name") == "stdout":
            kept[-1].text += output.text
            continue
        data = output.get("data", {})
        if WIDGET in data and "text/html" in data:  # brings its own static form
            del data[WIDGET]
        kept.append(output)
    return kept


def _failed_cell(stopped: Path) -> tuple[int, str] | None:
    """Number (from 1, as a reader counts) and source of the cell that raised."""
    if not stopped.is_file():
        return None
    with contextlib.suppress(Exception):
        document = nbformat.read(str(stopped), as_version=4)
        cells = [c for c in document.cells if "papermill-error" not in str(c.metadata.get("tags"))]
        for number, cell in enumerate(cells, start=1):
            if any(o.output_type == "error" for o in cell.get("outputs", ())):
                return number, cell.source
    return None


def failure(notebook: Path, cell: tuple[int, str] | None, error: Exception, log: Path) -> str:
    """One line that says which notebook stopped, where and why, and one that names the log."""
    name, value = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", error)
    where = ""
    if cell is not None:
        first = next((line for line in cell[1].splitlines() if line.strip()), "")
        where = f" in cell {cell[0]} ({first.strip()[:60]!r})"
    return f"{notebook.name} failed{where}: {name}: {value}\nlog: {relative(log)}"


def _log_text(
    notebook: Path, given: Mapping[str, Any], cell: tuple[int, str] | None, error: Exception
) -> str:
    number, source = cell or ("?", "")
    trace = "\n".join(getattr(error, "traceback", None) or [str(error)])
    plain = re.sub(r"\x1b\[[0-9;]*m", "", trace)
    return (
        f"notebook: {notebook.name}\nparameters: {json.dumps(dict(given), default=str)}\n"
        f"cell: {number}\n\n{source}\n\n{plain}\n"
    )


def relative(path: Path) -> str:
    """The path as a message shows it."""
    with contextlib.suppress(ValueError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)
