"""Pages link their pictures, need nothing from elsewhere, and speak to everybody."""

import base64
import io
import json
import re

import nbformat
import pytest
from PIL import Image

from lib.study.reports import pages
from lib.study.reports.notebooks import WIDGET


def png(number):
    """One of a few small pictures, in base64."""
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (number, 90, 7)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def foreign(page):
    """Everything a page would load from another folder than its own tree."""
    sources = re.findall(r"""(?:\bsrc|\bhref|@import|url\()\s*=?\s*["'(]?([^"')\s>]+)""", page)
    return [s for s in sources if re.match(r"(?:\w+:)?//|/|file:", s)]


@pytest.fixture
def executed(tmp_path):
    output = nbformat.v4.new_output
    picture = f'<img alt="third" src="data:image/png;base64,{png(2)}">'
    shown = [
        output("display_data", {"image/png": png(0)}),
        output("display_data", {"image/png": png(1)}, metadata={"image/png": {"alt": "own"}}),
        output("display_data", {WIDGET: {"model_id": "a"}, "text/plain": "Slider()"}),
        output("display_data", {WIDGET: {"model_id": "b"}, "text/html": "<b>static</b>"}),
        output("display_data", {"text/html": picture}),
        output("execute_result", {"text/html": "<table><tr><td>1</td></tr></table>"}),
    ]
    cells = [
        nbformat.v4.new_markdown_cell("# Trial\n\nWords."),
        nbformat.v4.new_markdown_cell("## The *map*"),
        nbformat.v4.new_code_cell("x = '<b>'", outputs=shown),
        nbformat.v4.new_code_cell("taught = 1", metadata={"tags": ["open"]}),
    ]
    path = tmp_path / "build" / "01_trial.ipynb"
    path.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture
def drawn(tmp_path):
    """A folder with the second picture as a saved figure."""
    folder = tmp_path / "figures" / "p"
    folder.mkdir(parents=True)
    (folder / "figure1_b.png").write_bytes(base64.b64decode(png(1)))
    (folder / "figure1_b.json").write_text(json.dumps({"caption": "C.", "alt": "A."}))
    return folder


def test_pictures_are_linked_where_they_lie(tmp_path, executed, drawn):
    target = tmp_path / "reports" / "p" / "01_trial.html"
    page = pages.render(executed, target, profile="p", drawn=drawn)
    assert target.read_text() == page and "base64" not in page
    sources = re.findall(r'<img[^>]*?src="([^"]+)"', page)
    assert sources == [
        "pictures/01_trial-1.png", "../../figures/p/figure1_b.png", "pictures/01_trial-2.png",
    ]  # fmt: skip
    for source, number in zip(sources, range(3)):
        assert (target.parent / source).read_bytes() == base64.b64decode(png(number))


def test_writing_again_changes_nothing_and_drops_what_is_no_longer_shown(tmp_path, executed, drawn):
    target = tmp_path / "reports" / "p" / "01_trial.html"
    pages.render(executed, target, profile="p", drawn=drawn)
    pictures = sorted((target.parent / "pictures").iterdir())
    times = [path.stat().st_mtime_ns for path in pictures]
    (target.parent / "pictures" / "01_trial-9.png").write_bytes(b"old")
    (target.parent / "pictures" / "02_other-1.png").write_bytes(b"another page's")
    once = target.read_bytes()
    pages.render(executed, target, profile="p", drawn=drawn)
    assert target.read_bytes() == once and times == [path.stat().st_mtime_ns for path in pictures]
    names = {path.name for path in (target.parent / "pictures").iterdir()}
    assert names == {"01_trial-1.png", "01_trial-2.png", "02_other-1.png"}


def test_a_page_needs_nothing_from_elsewhere_and_speaks(tmp_path, executed, drawn):
    page = pages.render(executed, tmp_path / "r" / "01_trial.html", profile="p", drawn=drawn)
    assert foreign(page) == []
    assert '<meta name="viewport" content="width=device-width' in page
    assert "<title>Trial</title>" in page and '<html lang="en">' in page
    alts = re.findall(r'<img[^>]*?alt="([^"]*)"', page)
    assert alts == ["Picture in “The map”", "own", "third"]
    assert "Slider()" not in page and page.count("Controls move in JupyterLab") == 1
    assert "<b>static</b>" in page and WIDGET not in page
    assert page.count("<details><summary>Code") == 1
    assert page.count('<details open=""><summary>Code') == 1


def test_intervals_stay_whole_and_sentences_are_set_as_text():
    sentence = "A large white moon, a purple circle and a red star."
    body = f"<td>81.0 [78.6, 83.4]</td><td>{sentence}</td><td>1, 2</td><p>[1, 2]</p>"
    page = pages.page("page.html.j2", title="<T>", banner="", body=pages.Markup(body))
    assert "<td>81.0 [78.6,&nbsp;83.4]</td>" in page and "<title>&lt;T&gt;</title>" in page
    assert f'<td class="wrap">{sentence}</td>' in page
    assert "<td>1, 2</td><p>[1, 2]</p>" in page and "banner" not in page


def test_figures_come_in_the_order_of_the_report(drawn):
    for name in ("ablation_a", "walkthrough_z", "figure3_x", "other"):
        (drawn / f"{name}.png").write_bytes(b"x")
        (drawn / f"{name}.json").write_text(json.dumps({"caption": "C."}))
    (drawn / "efficiency_lost.json").write_text(json.dumps({"caption": "no picture"}))
    names = [figure.name for figure in pages.figures(drawn)]
    assert names == ["walkthrough_z", "figure1_b", "figure3_x", "ablation_a", "other"]


def test_the_style_sheet_is_the_projects_with_colours_for_code(tmp_path):
    pages.write_style(tmp_path)
    sheet = (tmp_path / "style.css").read_text()
    assert "max-width: 78rem" in sheet and ".highlight" in sheet and "http" not in sheet
