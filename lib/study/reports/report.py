"""Notebooks to reports: run one through papermill, turn it into a page, collect the pages.

    python -m lib.study.reports.report all --profile embedded       # compute, then every notebook,
    then pages
    python -m lib.study.reports.report run notebooks/06_table1.ipynb --profile embedded
    python -m lib.study.reports.report html --profile embedded      # pages and index of what has
    run
    python -m lib.study.reports.report update notebooks/*.ipynb     # execute in place, to be
    committed
    python -m lib.study.reports.report figures --profile embedded   # only the figures, from stored
    results

An executed notebook appears in `reports/<profile>/` when it has run to its end, never before.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import html
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from .. import paths
from ..records import write_atomically

__all__ = [
    "NotebookFailed",
    "everything",
    "execute",
    "index_page",
    "notebooks",
    "profile_parameters",
    "reference_root",
    "render",
    "run",
    "update",
]

KERNEL = "python3"
#: the kernel's own log, which reaches the terminal, shows errors only
QUIET_KERNEL = ["--log-level=40"]
WIDGET = "application/vnd.jupyter.widget-view+json"
#: notebooks of a report; 90 and above (training) are run by hand
REPORTED = re.compile(r"[0-8]\d_\w+\.ipynb")


class NotebookFailed(RuntimeError):
    """A notebook stopped; the message names it, the cell and the log."""


def notebooks() -> list[Path]:
    """The notebooks of a report, in order."""
    folder = paths.ROOT / "notebooks"
    return sorted(path for path in folder.glob("*.ipynb") if REPORTED.fullmatch(path.name))


def profile_parameters(profile: str, notebook: Path) -> dict[str, Any]:
    """The entries of `notebooks/profiles/<profile>.yaml` that the notebook has as parameters."""
    import papermill
    import yaml

    path = paths.ROOT / "notebooks" / "profiles" / f"{profile}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("[a-z]*.yaml")))
        raise ValueError(f"no profile {profile!r}; there are {known}")
    with _quiet():
        known = papermill.inspect_notebook(str(notebook))
    given = yaml.safe_load(path.read_text())
    if given.get("json_path"):  # the figures show an image of the profile's own data
        given.setdefault("data", given["json_path"])
    return {k: v for k, v in given.items() if k in known}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Papermill warns about every file name that does not end in .ipynb, ours included."""
    logger = logging.getLogger("papermill")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The specified file", UserWarning)
            yield
    finally:
        logger.setLevel(level)


# ---------------------------------------------------------------------------- running


def run(notebook: Path, profile: str, *, progress: bool = True) -> Path:
    """Execute a notebook with a profile into `reports/<profile>/`; returns the executed one.

    Earlier output of this notebook, its page and the index go first, so a failure or a kill leaves
    nothing that looks finished.

    Raises `NotebookFailed`.
    """
    output = paths.reports_dir(profile) / notebook.name
    for old in (output, output.with_suffix(".html"), output.with_name("index.html")):
        old.unlink(missing_ok=True)
    log = paths.ROOT / "build" / "logs" / profile / f"{notebook.stem}.log"
    execute(notebook, output, profile_parameters(profile, notebook), log=log, progress=progress)
    return output


def execute(
    notebook: Path,
    output: Path,
    parameters: Mapping[str, Any],
    *,
    log: Path,
    progress: bool = True,
) -> None:
    """Run a notebook through papermill under a `.partial` name, renamed when it has finished.

    Raises `NotebookFailed`, naming the notebook, the cell and `log`; the notebook as far as it got
    lies beside the log.
    """
    import papermill

    if not notebook.is_file():
        raise NotebookFailed(f"no notebook {notebook}")
    partial = output.with_name(output.name + ".partial")
    output.parent.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    stopped = log.with_suffix(".ipynb")
    stopped.unlink(missing_ok=True)
    try:
        with _quiet(), _kernel_environment():
            document = papermill.execute_notebook(
                str(notebook), str(partial), parameters=dict(parameters), kernel_name=KERNEL,
                cwd=str(notebook.parent),
                progress_bar={"desc": notebook.stem} if progress else False,
                extra_arguments=QUIET_KERNEL,
            )  # fmt: skip
        tidy(document)
        nbformat.write(document, str(partial))
        os.replace(partial, output)
    except Exception as error:
        cell = _failed_cell(partial)
        write_atomically(log, _log_text(notebook, parameters, cell, error))
        if partial.exists():
            os.replace(partial, stopped)
        raise NotebookFailed(_failure(notebook, cell, error, log)) from error
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _kernel_environment() -> Iterator[None]:
    """What the kernels of a report inherit: this very `lib`, no telemetry, no debugger warnings."""
    here = str(Path(__file__).parents[3])
    wanted = {
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])),
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def tidy(document: NotebookNode) -> None:
    """Drop what differs from machine to machine and says nothing: paths, dates, progress bars."""
    meta = document.metadata
    papermill = meta.get("papermill") or {}
    meta.clear()
    meta["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": KERNEL}
    meta["language_info"] = {"name": "python"}
    if papermill:
        meta["papermill"] = {
            "duration": round(papermill.get("duration") or 0, 1),
            "parameters": papermill.get("parameters", {}),
        }
    for cell in document.cells:
        for key in ("papermill", "execution", "ExecuteTime", "widgets"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]


def _failed_cell(partial: Path) -> tuple[int, str] | None:
    """Number (from 1, as a reader counts) and source of the cell that raised."""
    if not partial.is_file():
        return None
    with contextlib.suppress(Exception):
        document = nbformat.read(str(partial), as_version=4)
        cells = [c for c in document.cells if "papermill-error" not in str(c.metadata.get("tags"))]
        for number, cell in enumerate(cells, start=1):
            if any(o.output_type == "error" for o in cell.get("outputs", ())):
                return number, cell.source
    return None


def _failure(notebook: Path, cell: tuple[int, str] | None, error: Exception, log: Path) -> str:
    name, value = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", error)
    where = ""
    if cell is not None:
        first = next((line for line in cell[1].splitlines() if line.strip()), "")
        where = f" in cell {cell[0]} ({first.strip()[:60]!r})"
    return f"{notebook.name} failed{where}: {name}: {value}\nlog: {_relative(log)}"


def _log_text(notebook, parameters, cell, error) -> str:
    number, source = cell or ("?", "")
    trace = "\n".join(getattr(error, "traceback", None) or [str(error)])
    plain = re.sub(r"\x1b\[[0-9;]*m", "", trace)
    return (
        f"notebook: {notebook.name}\nparameters: {json.dumps(dict(parameters), default=str)}\n"
        f"cell: {number}\n\n{source}\n\n{plain}\n"
    )


def _relative(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)


def update(notebook: Path, *, progress: bool = True) -> None:
    """Execute a notebook in place with its default parameters, as it is committed.

    The file changes only if every cell ran. Raises `NotebookFailed`.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from tqdm.auto import tqdm

    document = nbformat.read(str(notebook), as_version=4)
    log = paths.ROOT / "build" / "logs" / "update" / f"{notebook.stem}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    client = NotebookClient(
        document, timeout=600, kernel_name=KERNEL, extra_arguments=QUIET_KERNEL,
        resources={"metadata": {"path": str(notebook.parent)}},
    )  # fmt: skip
    with tqdm(total=len(document.cells), desc=notebook.stem, disable=not progress) as bar:
        client.on_cell_complete = lambda **_: bar.update()
        try:
            with _kernel_environment():
                client.execute()
        except CellExecutionError as error:
            number, cell = next(
                (n, c)
                for n, c in enumerate(document.cells, start=1)
                if any(o.output_type == "error" for o in c.get("outputs", ()))
            )
            write_atomically(log, _log_text(notebook, {}, (number, cell.source), error))
            failure = _failure(notebook, (number, cell.source), error, log)
            raise NotebookFailed(failure) from error
    tidy(document)
    write_atomically(notebook, nbformat.writes(document) + "\n")


def draw(profile: str, *, progress: bool = True) -> None:
    """Run the code of every notebook in this process, for its figures and tables alone.

    Much faster than a kernel each, since libraries are loaded once; nothing but `figures/<profile>`
    is written. Raises `NotebookFailed`.
    """
    import matplotlib

    matplotlib.use("agg")
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output
    from tqdm.auto import tqdm

    here = Path.cwd()
    for notebook in tqdm(notebooks(), desc="figures", unit="notebook", disable=not progress):
        document = nbformat.read(str(notebook), as_version=4)
        given = profile_parameters(profile, notebook)
        shell = InteractiveShell()
        shell.colors = "nocolor"
        os.chdir(notebook.parent)
        try:
            for number, cell in enumerate(document.cells, start=1):
                if cell.cell_type != "code":
                    continue
                with capture_output() as said:
                    result = shell.run_cell(cell.source)
                if result.error_before_exec or result.error_in_exec:
                    error = result.error_before_exec or result.error_in_exec
                    log = paths.ROOT / "build" / "logs" / profile / f"{notebook.stem}.log"
                    text = f"{said.stdout}\n{said.stderr}"
                    write_atomically(
                        log, f"{_log_text(notebook, given, (number, cell.source), error)}{text}"
                    )
                    raise NotebookFailed(
                        _failure(notebook, (number, cell.source), error, log)
                    ) from error
                if "parameters" in cell.metadata.get("tags", ()):
                    shell.push(given)
        finally:
            os.chdir(here)
            matplotlib.pyplot.close("all")


def everything(
    profile: str, *, jobs: int = 2, fresh: bool = False, device: str | None = None,
    progress: bool = True,
) -> list[Path]:  # fmt: skip
    """The study of a profile, all its notebooks, their pages: `make reproduce` without Make.

    jobs: notebooks that run at once, each with its own copy of the model if it needs one.
    fresh: see `lib.study.run.run`. Pages need nbconvert; without it they can be written elsewhere
    from
    the executed notebooks (`python -m lib.study.reports.report html`). Returns what was executed.

    Raises `NotebookFailed`, with every failure, when all the others have run.
    """
    import importlib.util

    from tqdm.auto import tqdm

    from .. import run as study

    chosen = study.load_profile(profile).notebooks.split()
    todo = [p for p in notebooks() if not chosen or p.name[:2] in chosen]
    root = Path(__file__).parents[3]
    environment = {**os.environ, "ENTROPY_PRUNE_ROOT": str(paths.ROOT)}
    quiet = [] if progress else ["--quiet"]
    command = [sys.executable, "-m", "lib", "study", "--profile", profile, *quiet]
    command += ["--device", device] if device else []
    if subprocess.run(command, cwd=root, env=environment).returncode:
        raise NotebookFailed(f"the study of {profile!r} stopped (its message is above)")

    def one(notebook: Path) -> str:
        command = [
            sys.executable,
            "-m",
            "lib.study.reports.report",
            "--quiet",
            "run",
            str(notebook),
        ]
        done = subprocess.run(
            [*command, "--profile", profile], cwd=root, env=environment, capture_output=True,
            text=True,
        )  # fmt: skip
        return done.stderr.strip() or f"{notebook.name} failed" if done.returncode else ""

    failures = []
    with (
        ThreadPoolExecutor(jobs) as pool,
        tqdm(total=len(todo), desc="notebooks", disable=not progress) as bar,
    ):
        for failure in pool.map(one, todo):
            failures += [failure] if failure else []
            bar.update()
    if failures:
        raise NotebookFailed("\n".join(failures))
    if importlib.util.find_spec("nbconvert"):
        write_pages(profile)
    return [paths.reports_dir(profile) / notebook.name for notebook in todo]


# ---------------------------------------------------------------------------- pages


STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1d232b;
  background: #fff; margin: 0 auto; padding: 1rem 1rem 4rem; max-width: 78rem;
  overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.25; }
h2 { font-size: 1.3rem; margin-top: 2.2rem; }
h3 { font-size: 1.08rem; }
a { color: #0b5cad; }
a.anchor-link { display: none; }
nav { font-size: .92rem; margin-bottom: 1rem; }
img, svg { max-width: 100%; height: auto; }
figure { margin: 1.5rem 0 2.2rem; }
.banner { background: #fff3cd; border-left: 4px solid #d39e00; padding: .5rem .8rem; }
figcaption, .note { font-size: .9rem; color: #4a5561; }
pre, code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  font-size: .84rem; }
pre { overflow-x: auto; padding: .6rem .8rem; background: #f5f7f9; border-radius: 6px;
  margin: .5rem 0; }
code { background: #f1f3f5; border-radius: 3px; padding: 0 .2em; }
pre code { background: none; padding: 0; }
.output_text pre { background: none; padding: .2rem 0; white-space: pre-wrap; }
details { margin: .4rem 0; }
summary { cursor: pointer; color: #4a5561; font-size: .86rem; }
.scroll, .output_html, .output_text { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .88rem; margin: .6rem 0; }
th, td { padding: .28rem .6rem; text-align: right; border-bottom: 1px solid #dfe4e9; }
th { white-space: nowrap; }
th:first-child, tbody th, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #9aa5b1; white-space: normal; vertical-align: bottom; }
td.wrap { text-align: left; min-width: 14rem; }
@media (max-width: 40rem) {
  h1 { font-size: 1.4rem; }
  th, td { padding: .22rem .4rem; font-size: .8rem; }
  .scroll th:first-child { white-space: normal; min-width: 6.2rem; position: sticky; left: 0;
    background: #fff; }
}
"""

CELLS = """
{%- extends 'basic/index.html.j2' -%}
{% block input_group -%}
<details><summary>Code</summary>{{ super() }}</details>
{%- endblock input_group %}
{% block in_prompt %}{% endblock %}
{% block empty_in_prompt %}{% endblock %}
{% block output_area_prompt %}{% endblock %}
"""


def page(title: str, body: str, *, style: str = "") -> str:
    """A page of its own: no script, font, style or image from elsewhere."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n"
        f"<body>\n{_cells(body)}\n</body>\n</html>\n"
    )


def _cells(body: str) -> str:
    """Table cells that wrap well: intervals stay whole, sentences are set as text."""
    body = re.sub(r"(<td[^>]*>[^<]*\[[^<,\]]+,) ", r"\1&nbsp;", body)
    return re.sub(r"<td>([^<]{40,})</td>", r'<td class="wrap">\1</td>', body)


def title_of(document: NotebookNode) -> str:
    """The first heading of a notebook, without mark-up."""
    for cell in document.cells:
        if cell.cell_type == "markdown" and cell.source.lstrip().startswith("# "):
            line = cell.source.lstrip().splitlines()[0][2:]
            return re.sub(r"[*`_]", "", line).strip()
    return "Untitled"


def render(notebook: Path, *, profile: str | None = None) -> str:
    """An executed notebook as one HTML page that needs nothing else."""
    from jinja2 import DictLoader
    from nbconvert.exporters import HTMLExporter
    from pygments.formatters import HtmlFormatter

    document = nbformat.read(str(notebook), as_version=4)
    title = title_of(document)
    _make_static(document, profile, title)
    exporter = HTMLExporter(
        extra_loaders=[DictLoader({"cells.html.j2": CELLS})], template_file="cells.html.j2",
        template_name="basic", exclude_anchor_links=True,
    )  # fmt: skip
    body, _ = exporter.from_notebook_node(document)
    body = re.sub(r"(<table)", r'<div class="scroll">\1', body)
    body = re.sub(r"(</table>)", r"\1</div>", body)
    nav = '<nav><a href="index.html">All figures and tables</a></nav>'
    style = HtmlFormatter().get_style_defs(".highlight")
    return page(title, nav + _banner(profile) + body, style=style)


def _banner(profile: str | None) -> str:
    """What a page of a profile with random weights says before anything else."""
    from ..run import UNSCORED, mark

    said = mark(profile) if profile else ""
    text = f"{said[:1].upper()}{said[1:]}: {UNSCORED}; times, FLOPs and memory are measured."
    return f'<p class="banner">{html.escape(text)}</p>' if said else ""


def _make_static(document: NotebookNode, profile: str | None, title: str) -> None:
    """Widgets become a sentence, and every picture gets a text for those who do not see it."""
    texts = {record["digest"]: record["alt"] for record in figures(profile) if record["digest"]}
    heading = title
    for cell in document.cells:
        if cell.cell_type == "markdown":
            found = re.findall(r"^#+ (.+)$", cell.source, flags=re.MULTILINE)
            heading = re.sub(r"[*`_]", "", found[-1]) if found else heading
            continue
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if WIDGET in data and "text/html" in data:  # brings its own static form
                del data[WIDGET]
            elif WIDGET in data:
                note = "Controls move in JupyterLab; this page shows the state they start in."
                output["data"] = nbformat.from_dict({"text/html": f'<p class="note">{note}</p>'})
            if "image/png" in data:
                image = data["image/png"]
                own = output.setdefault("metadata", {}).setdefault("image/png", {})
                if not isinstance(own, dict):
                    own = output["metadata"]["image/png"] = nbformat.from_dict({})
                own.setdefault("alt", texts.get(_digest(image), f"Picture in “{heading}”"))


def _digest(png: str | bytes) -> str:
    import hashlib

    raw = base64.b64decode(png) if isinstance(png, str) else png
    return hashlib.sha256(raw).hexdigest()


def figures(profile: str | None) -> list[dict[str, Any]]:
    """What `figures/<profile>/` holds: name, caption, alt text, file of every figure, in order."""
    if profile is None:
        return []
    found = []
    for path in sorted(paths.figures_dir(profile).glob("*.json"), key=_figure_order):
        picture = path.with_suffix(".png")
        record = json.loads(path.read_text(encoding="utf-8"))
        if picture.is_file() and "caption" in record:
            found.append({
                "name": path.stem, "caption": record["caption"], "alt": record.get("alt", ""),
                "notebook": record.get("notebook"), "path": picture,
                "digest": _digest(picture.read_bytes()),
            })  # fmt: skip
    return found


def _figure_order(path: Path) -> tuple[int, str]:
    """The walkthrough and the paper's figures first, then Table 1's, the ablations and the cost."""
    order = ("walkthrough", "figure", "table", "ablation", "efficiency")
    place = next((n for n, start in enumerate(order) if path.stem.startswith(start)), len(order))
    return place, path.stem


# ---------------------------------------------------------------------------- index


ABSTRACT = (
    "A vision-language model spends most of its effort on visual tokens that repeat each other. "
    "<b>Entropy-Prune</b> scores a token by the matrix entropy its removal would cost, cluster by "
    "cluster and merged over layers, and drops the rest before the language model reads them. "
    "This report recomputes the figures and the table of the paper with the method written anew, "
    "beside random pruning, ToMe and FastV, and says where the outcome differs."
)


def index_page(profile: str) -> str:
    """`index.html` of a profile: abstract, Table 1, all figures, differences, environment."""
    from .. import run as study
    from . import tables

    settings = study.load_profile(profile)
    parts = [
        "<h1>Entropy-Prune: the study, reproduced</h1>",
        f'<p class="note">Profile <code>{html.escape(profile)}</code>: '
        f"{html.escape(settings.description)}.</p>",
        _banner(profile),
        f"<p>{ABSTRACT}</p>",
        "<h2>Notebooks</h2>",
        _contents(profile),
    ]
    folder = paths.results_dir(profile)
    if (folder / "scores.json").is_file():
        parts += ["<h2>Table 1</h2>", tables.html_blocks(profile)]
    drawn = figures(profile)
    parts += ["<h2>Figures</h2>"] + [_figure(record, profile) for record in drawn]
    parts += ["<h2>What differs from the paper</h2>", tables.deviations(profile)]
    parts += ["<h2>Environment and timings</h2>", _environment(profile)]
    return page("Entropy-Prune: the study, reproduced", "\n".join(parts))


def _executed(profile: str) -> list[tuple[Path, NotebookNode]]:
    folder = paths.reports_dir(profile)
    found = [p for p in sorted(folder.glob("*.ipynb")) if REPORTED.fullmatch(p.name)]
    return [(path, nbformat.read(str(path), as_version=4)) for path in found]


def _contents(profile: str) -> str:
    items = [
        f'<li><a href="{path.stem}.html">{html.escape(title_of(document))}</a></li>'
        for path, document in _executed(profile)
    ]
    return "<ul>" + "".join(items) + "</ul>"


def _figure(record: Mapping[str, Any], profile: str) -> str:
    data = base64.b64encode(record["path"].read_bytes()).decode()
    where = f"figures/{profile}/{record['name']}"
    return (
        f'<figure id="{html.escape(record["name"])}">'
        f'<img src="data:image/png;base64,{data}" alt="{html.escape(record["alt"], quote=True)}">'
        f"<figcaption>{html.escape(record['caption'])} "
        f"<code>{html.escape(where)}.svg</code></figcaption></figure>"
    )


def _environment(profile: str) -> str:
    from .. import run as study

    rows: list[tuple[str, str]] = []
    with contextlib.suppress(FileNotFoundError):
        document = study.load_study(profile)
        made = document["environment"]
        rows.append(("Versions", ", ".join(f"{k} {v}" for k, v in made["versions"].items())))
        rows.append(("Computed on", f"{made['platform']}, {made.get('device') or 'cpu'}"))
        for stage, seconds in document["seconds"].items():
            rows.append((f"Computing: {stage}", f"{seconds:.0f} s"))
        if agreement := document.get("agreement"):
            rows.append((
                "Compared with the published records",
                f"{agreement['same']} of {agreement['of']} captions and kept counts are the same",
            ))  # fmt: skip
    for path, notebook in _executed(profile):
        seconds = notebook.metadata.get("papermill", {}).get("duration")
        if seconds is not None:
            rows.append((path.name, f"{seconds:.0f} s"))
    cells = "".join(
        f'<tr><td>{html.escape(a)}</td><td class="wrap">{html.escape(b)}</td></tr>' for a, b in rows
    )
    return f'<div class="scroll"><table>{cells}</table></div>'


def write_pages(profile: str) -> list[Path]:
    """Pages of all executed notebooks and the index; returns what was written."""
    written = []
    for path, _ in _executed(profile):
        write_atomically(path.with_suffix(".html"), render(path, profile=profile))
        written.append(path.with_suffix(".html"))
    if not written:
        raise FileNotFoundError(
            f"{_relative(paths.reports_dir(profile))} holds no executed notebook: "
            f"'make reproduce PROFILE={profile}' makes them"
        )
    target = paths.reports_dir(profile) / "index.html"
    write_atomically(target, index_page(profile))
    return [*written, target]


# ---------------------------------------------------------------------------- checking


def reference_root(folder: Path) -> Path:
    """A root (`ENTROPY_PRUNE_ROOT`) in which the committed notebooks must give their outputs.

    It links the model, the downloads and the results the notebooks were executed with: those of the
    checkout, even after `make reproduce` has computed this machine's own. What the notebooks draw
    there does not touch `figures/`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data" / "results").mkdir(parents=True)
    for name in ("raw", "embedded"):
        (paths.data_dir() / name).mkdir(parents=True, exist_ok=True)
        (folder / "data" / name).symlink_to(paths.data_dir() / name)
    (folder / "notebooks").symlink_to(paths.ROOT / "notebooks")
    for source in sorted((paths.data_dir() / "results").glob("*")):
        (folder / "data" / "results" / source.name).symlink_to(source)
    return folder


# ---------------------------------------------------------------------------- command line


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see `python -m lib.study.reports.report --help`."""
    parser = argparse.ArgumentParser(
        prog="python -m lib.study.reports.report", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    tasks = parser.add_subparsers(dest="task", required=True)

    def task(name: str, text: str, *, files: bool = False, profile: bool = True):
        one = tasks.add_parser(name, help=text)
        if files:
            one.add_argument("notebooks", nargs="+", type=Path)
        if profile:
            one.add_argument("--profile", default="embedded")
        return one

    whole = task("all", "compute a profile, execute its notebooks, write the pages")
    whole.add_argument("--jobs", type=int, default=2, help="notebooks at once (default 2)")
    whole.add_argument("--fresh", action="store_true", help="see python -m lib.study.run --help")
    whole.add_argument("--device", help="of the study; default the GPU if there is one")
    task("run", "execute notebooks into reports/<profile>", files=True)
    task("page", "turn executed notebooks into HTML", files=True)
    task("index", "write index.html")
    task("html", "turn everything executed into HTML, and write the index")
    task("figures", "draw the figures from stored results")
    task("update", "execute notebooks in place", files=True, profile=False)
    task("reference", "lay out a root for nbval", profile=False).add_argument("folder", type=Path)
    options = parser.parse_args(argv)
    progress = not options.quiet
    began = time.monotonic()
    try:
        match options.task:
            case "all":
                made = everything(
                    options.profile, jobs=options.jobs, fresh=options.fresh,
                    device=options.device, progress=progress,
                )  # fmt: skip
                print(*map(_relative, made), sep="\n")
                print(f"{time.monotonic() - began:.0f} s")
            case "run":
                for notebook in options.notebooks:
                    made = run(notebook.resolve(), options.profile, progress=progress)
                    print(f"{_relative(made)}  {time.monotonic() - began:.0f} s")
            case "page":
                for notebook in options.notebooks:
                    target = notebook.with_suffix(".html")
                    write_atomically(target, render(notebook, profile=options.profile))
            case "index":
                target = paths.reports_dir(options.profile) / "index.html"
                write_atomically(target, index_page(options.profile))
                print(_relative(target))
            case "html":
                print("\n".join(_relative(path) for path in write_pages(options.profile)))
            case "figures":
                draw(options.profile, progress=progress)
                print(_relative(paths.figures_dir(options.profile)))
            case "update":
                for notebook in options.notebooks:
                    update(notebook.resolve(), progress=progress)
            case "reference":
                print(reference_root(options.folder.resolve()))
    except (NotebookFailed, ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
