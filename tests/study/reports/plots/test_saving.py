"""Figures are saved whole, with their words, and only where their bytes are new."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from lib.study import paths
from lib.study.reports import captions
from lib.study.reports.plots import images, save, saving, show
from lib.study.reports.plots.style import subplots
from lib.study.reports.subject import Subject

IMAGE = np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8)
WORDS = {
    "figure9_x": {"title": "Claim {n}", "caption": "Cap of {source}.", "alt": "Alt {n}."},
    "shown": {"alt": "A picture."},
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(captions, "known", lambda: WORDS)
    with paths.looking_at("run"):
        yield paths.figures_dir("p")


def curve():
    fig, ax = subplots(figsize=(3, 2))
    ax.plot([0, 1], [0, 1])
    return fig


def test_save_writes_picture_curve_and_words(folder):
    fig = curve()
    saved = save(fig, "figure9_x", Subject(profile="p", image=7), n=3)
    assert list(saved.paths) == ["png", "svg", "json"] and fig.get_suptitle() == "Claim 3"
    about = json.loads(saved.paths["json"].read_text())
    source = "embedded model, generated test scene 7, 1 image"
    assert about == {
        "name": "figure9_x", "profile": "p", "caption": f"Cap of {source}.", "alt": "Alt 3.",
    }  # fmt: skip
    text = saved.paths["svg"].read_text()
    assert "<dc:date>" not in text and "Matplotlib v" not in text and ">Claim 3</text>" in text
    assert {p.name for p in folder.iterdir()} == {f"figure9_x.{k}" for k in ("png", "svg", "json")}


def test_a_picture_has_no_svg_and_an_old_one_goes(folder):
    save(curve(), "figure9_x", "p", n=1, source="s")
    saved = save(images.patches(IMAGE, (4, 4)), "figure9_x", "p", n=1, source="s")
    assert list(saved.paths) == ["png", "json"] and not (folder / "figure9_x.svg").exists()


def test_what_is_committed_is_png_alone():
    with paths.looking_at("reference"):
        old = paths.figures_dir("p") / "figure9_x.svg"
        old.parent.mkdir(parents=True)
        old.write_text("<svg/>")
        saved = save(curve(), "figure9_x", "p", n=1, source="s")
    assert list(saved.paths) == ["png", "json"] and not old.exists()
    assert saved.paths["png"].parent == old.parent


def test_unchanged_files_are_not_written_again(folder, monkeypatch):
    for n in (1, 1):
        save(curve(), "figure9_x", "p", n=n, source="s")
        monkeypatch.setattr(saving, "write_atomically", lambda *a: pytest.fail("written again"))


def test_a_saved_figure_shows_itself_with_its_alt_text(folder):
    data, about = save(curve(), "figure9_x", "p", n=1, source="s")._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]) == (folder / "figure9_x.png").read_bytes()
    assert about["image/png"] == {"alt": "Alt 1.", "width": 300}
    assert data["text/plain"] == "figure9_x: png, svg, json"


def test_a_figure_can_be_shown_without_saving_it(folder):
    data, about = show(curve(), "shown")._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert about["image/png"]["alt"] == "A picture." and data["text/plain"] == "a picture"
    assert not folder.exists()


def test_nothing_drawn_is_said(folder):
    assert save(None, "figure9_x", "p") == "no figure: nothing was measured or scored"
    assert not folder.exists()


def test_words_that_do_not_fit_leave_no_file(folder):
    with pytest.raises(ValueError, match="needs n"):
        save(curve(), "figure9_x", "p", source="s")
    with pytest.raises(ValueError, match="no figure 'figure8'"):
        save(curve(), "figure8", "p")
    assert not folder.exists()


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), int)


def test_few_colours_become_a_palette_without_loss():
    drawing = np.zeros((64, 64, 3), np.uint8)
    drawing[8:20] = (0, 114, 178)
    drawing[:, 30] = (255, 255, 255)
    small = saving.compact(png(drawing))
    assert Image.open(io.BytesIO(small)).mode == "P" and (pixels(small) == drawing).all()


def test_a_picture_of_many_colours_keeps_them_all():
    assert (pixels(saving.compact(png(IMAGE))) == IMAGE).all()


def test_areas_of_many_colours_keep_them_all():
    areas = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    areas = areas.repeat(8, 0).repeat(8, 1)
    assert (pixels(saving.compact(png(areas))) == areas).all()


def test_a_palette_hardly_differs():
    fig = curve()
    before = saving._rendered(fig, "png")
    after = saving.compact(before)
    assert len(after) < 0.6 * len(before)
    off = np.abs(pixels(after) - pixels(before)).max(-1)
    assert (off > 16).mean() <= 0.002 and off.mean() < 0.5
