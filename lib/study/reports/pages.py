"""Executed notebooks as HTML pages that link their pictures.

A page, its style sheet and its pictures need nothing from elsewhere. A picture that was saved as a
figure is linked where it lies; one that was only shown is written to `pictures/` beside the page.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
from jinja2 import FileSystemLoader
from markupsafe import Markup
from nbconvert.exporters import HTMLExporter
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from ..files import write_atomically
from ..labels import UNSCORED
from ..stored import mark
from .notebooks import WIDGET, title_of
from .templates import FOLDER, template

__all__ = ["Figure", "banner", "figures", "page", "render", "write_style"]

_EMBEDDED = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)")


@dataclass(frozen=True)
class Figure:
    """A saved figure with its words."""

    name: str
    caption: str
    alt: str
    path: Path

    @property
    def digest(self) -> str:
        return _digest(self.path.read_bytes())


def figures(folder: Path) -> list[Figure]:
    """What a folder of figures holds, in the order of the report."""
    found = []
    for path in sorted(folder.glob("*.json"), key=_order):
        picture = path.with_suffix(".png")
        record = json.loads(path.read_text(encoding="utf-8"))
        if picture.is_file() and "caption" in record:
            found.append(Figure(path.stem, record["caption"], record.get("alt", ""), picture))
    return found


def _order(path: Path) -> tuple[int, str]:
    """The walkthrough and the paper's figures first, then Table 1's, the ablations and the cost."""
    order = ("walkthrough", "figure", "table", "ablation", "efficiency")
    place = next((n for n, start in enumerate(order) if path.stem.startswith(start)), len(order))
    return place, path.stem


def render(notebook: Path, target: Path, *, profile: str, drawn: Path) -> str:
    """Write an executed notebook as the page `target`; returns its HTML.

    drawn: the folder of the profile's figures.
    """
    document = nbformat.read(str(notebook), as_version=4)
    title = title_of(document)
    _make_static(document, title)
    exporter = HTMLExporter(
        extra_loaders=[FileSystemLoader(FOLDER)],
        template_file="cells.html.j2",
        template_name="basic",
        exclude_anchor_links=True,
    )
    body, _ = exporter.from_notebook_node(document)
    body = _linked(body, target, {figure.digest: figure.path for figure in figures(drawn)})
    body = re.sub(r"[ \t]+$", "", body, flags=re.MULTILINE)
    text = page("page.html.j2", title=title, banner=banner(profile), body=Markup(body))
    write_atomically(target, text)
    return text


def page(name: str, **values: object) -> str:
    """A page of a template; table cells wrap well."""
    text = template(name).render(**values)
    # intervals stay whole, sentences are set as text
    text = re.sub(r"(<td[^>]*>[^<]*\[[^<,\]]+,) ", r"\1&nbsp;", text)
    return re.sub(r"<td>([^<]{40,})</td>", r'<td class="wrap">\1</td>', text)


def banner(profile: str) -> str:
    """What a page of a profile with random weights says before anything else."""
    said = mark(profile)
    text = f"{said[:1].upper()}{said[1:]}: {UNSCORED}; times, FLOPs and memory are measured."
    return text if said else ""


def write_style(folder: Path) -> None:
    """`style.css`, which every page of a folder uses."""
    code = HtmlFormatter().get_style_defs(".highlight")
    sheet = (FOLDER / "style.css").read_text(encoding="utf-8")
    write_atomically(folder / "style.css", f"{sheet}{code}\n")


def _make_static(document: NotebookNode, title: str) -> None:
    """Widgets become a sentence, and every picture gets a text for those who do not see it."""
    heading = title
    for cell in document.cells:
        if cell.cell_type == "markdown":
            found = re.findall(r"^#+ (.+)$", cell.source, flags=re.MULTILINE)
            heading = re.sub(r"[*`_]", "", found[-1]) if found else heading
            continue
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if WIDGET in data and "text/html" not in data:
                note = "Controls move in JupyterLab; this page shows the state they start in."
                output["data"] = nbformat.from_dict({"text/html": f'<p class="note">{note}</p>'})
            data.pop(WIDGET, None)
            if "image/png" in data:
                own = output.setdefault("metadata", {}).setdefault("image/png", {})
                if not isinstance(own, dict):
                    own = output["metadata"]["image/png"] = nbformat.from_dict({})
                own.setdefault("alt", f"Picture in “{heading}”")


def _linked(body: str, target: Path, drawn: dict[str, Path]) -> str:
    """The page with links in place of embedded pictures, which are written where none lies yet."""
    folder, written = target.parent / "pictures", []

    def link(match: re.Match[str]) -> str:
        png = base64.b64decode(match[1])
        path = drawn.get(_digest(png))
        if path is None:
            path = folder / f"{target.stem}-{len(written) + 1}.png"
            written.append(path)
            if not path.is_file() or path.read_bytes() != png:
                write_atomically(path, png)
        return os.path.relpath(path, target.parent)

    body = _EMBEDDED.sub(link, body)
    for old in set(folder.glob(f"{target.stem}-*.png")) - set(written):
        old.unlink()
    return body


def _digest(png: bytes) -> str:
    return hashlib.sha256(png).hexdigest()
