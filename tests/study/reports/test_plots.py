"""Figures are saved whole and repeatably, and draw what they are given."""

import base64
import json
import re
import shutil
import subprocess

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("agg")

from lib.study.reports import plots

GRID = (4, 4)
RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.integers(0, 256, (56, 56, 3), dtype=np.uint8)
LABELS = np.array([0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 2, 2, 3, 4, 4, 4])
POINTS = RANDOM.normal(size=(5, 8))
UNIT = POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True)
GRAM = UNIT @ UNIT.T
CORE = np.array([True, False, True, False, True])


def _attention():
    return plots.attention_by_layer(
        np.array([[0.2, 0.5, 0.2, 0.1], [0.6, 0.1, 0.2, 0.1]]), [4, 16, 5, 3],
        ("system", "image", "instruction", "output"), quoted=0.0021, title="Attention",
    )  # fmt: skip


def _flow():
    operators = np.stack([GRAM, GRAM / 2])
    return plots.rollout_flow(
        operators, operators, ["vision 1", "vision 2"], IMAGE, LABELS.astype(float), GRID
    )


FIGURES = {
    "attention": _attention,
    "flow": _flow,
    "clusters": lambda: plots.clusters(IMAGE, LABELS, np.arange(5), GRID, title="Clusters"),
    "agreement": lambda: plots.rank_agreement(
        {"a": {"scaled": [1, 0.9], "literal": [1, -0.5]}, "b": {"scores": [1, 1]}},
        depths=[[1, 2], [1, 2]],
    ),
    "scores": lambda: plots.cluster_scores(
        np.array([0.3, -0.1, 0.2, -0.2, 0.1]), np.where(CORE, 0.1, np.nan), np.arange(1, 6), CORE
    ),
    "similarity": lambda: plots.similarity_before_after(
        GRAM, GRAM[CORE][:, CORE], ["a", "b", "c"], sort=np.arange(5)[::-1]
    ),
    "maps": lambda: plots.token_maps(IMAGE, {"a": LABELS, "b": -LABELS}, GRID, diverging=True),
    "shared maps": lambda: plots.token_maps(
        IMAGE,
        {str(i): LABELS + i for i in range(6)},
        GRID,
        shared=True,
        power=0.5,
        plain=True,
        title="M",
    ),
    "kept": lambda: plots.kept_patches(IMAGE, {"8": LABELS > 1, "4": LABELS > 2}, GRID, title="K"),
    "image": lambda: plots.show_image(IMAGE, GRID, title="image"),
    "matrices": lambda: plots.matrices({"a": GRAM, "b": GRAM}),
}


@pytest.fixture(autouse=True)
def _close():
    yield
    mpl.pyplot.close("all")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "figures_dir", lambda profile: tmp_path / profile)
    return tmp_path


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_draws_the_same_bytes_twice(name, folder):
    for run in ("one", "two"):
        plots.save(FIGURES[name](), "figure", run, caption="A caption.", alt="A picture.")
    for suffix in ("png", "svg"):
        one, two = ((folder / run / f"figure.{suffix}").read_bytes() for run in ("one", "two"))
        assert one == two and len(one) > 2000


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_cut_off_at_the_edge(name):
    fig = FIGURES[name]()
    fig.canvas.draw()
    drawn, (width, height) = fig.get_tightbbox(), fig.get_size_inches()
    assert drawn.x0 > -0.02 and drawn.x1 < width + 0.02, drawn
    assert drawn.y0 > -0.02 and drawn.y1 < height + 0.02, drawn


def test_save_writes_caption_alt_text_and_an_svg_without_a_date(folder):
    written = plots.save(FIGURES["image"](), "figure9_x", "p", caption=" Cap. ", alt="Alt.")
    assert set(written.paths) == {"png", "svg", "json"}
    about = json.loads(written.paths["json"].read_text())
    assert about == {"name": "figure9_x", "profile": "p", "caption": "Cap.", "alt": "Alt."}
    text = written.paths["svg"].read_text()
    assert "<dc:date>" not in text and "Matplotlib v" not in text
    assert not list((folder / "p").glob("*.partial"))


def test_a_saved_figure_shows_itself_with_its_alt_text(folder):
    fig = FIGURES["image"]()
    saved = plots.save(fig, "figure9_x", "p", caption="Cap.", alt="Alt.")
    data, about = saved._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]) == (folder / "p" / "figure9_x.png").read_bytes()
    assert about["image/png"]["alt"] == "Alt." and str(folder) not in data["text/plain"]
    assert not mpl.pyplot.fignum_exists(fig.number)


def test_a_figure_can_be_shown_without_saving_it(folder):
    fig = FIGURES["image"]()
    data, about = plots.show(fig, alt="Alt.")._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert about["image/png"]["alt"] == "Alt." and data["text/plain"] == "a picture"
    assert not mpl.pyplot.fignum_exists(fig.number) and not list(folder.iterdir())
    with pytest.raises(ValueError, match="alt must not be empty"):
        plots.show(FIGURES["image"](), alt="")


@pytest.mark.parametrize("name", ["", "../x", ".x", "a/b", "x.png"])
def test_save_refuses_a_name_that_is_no_plain_file_name(name, folder):
    with pytest.raises(ValueError, match="plain file name"):
        plots.save(FIGURES["image"](), name, "p", caption="c", alt="a")


@pytest.mark.parametrize("missing", ["caption", "alt"])
def test_save_refuses_a_figure_without_words(missing, folder):
    words = {"caption": "c", "alt": "a"} | {missing: " "}
    with pytest.raises(ValueError, match=f"{missing} of figure 'x' must not be empty"):
        plots.save(FIGURES["image"](), "x", "p", **words)
    assert not (folder / "p").exists()


def test_values_must_fit_the_grid():
    with pytest.raises(ValueError, match="expected 16 values for grid"):
        plots.token_maps(IMAGE, {"a": np.zeros(15)}, GRID)


def test_similar_clusters_are_neighbours_in_the_order():
    a, b = RANDOM.normal(size=(2, 16))
    near = np.stack([a, b, a + 0.1 * b, b + 0.1 * a, a - 0.1 * b, b - 0.1 * a])
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    groups = plots.similarity_order(near @ near.T) % 2
    assert groups.tolist() in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])


def test_patches_are_outlined_where_labels_change():
    _, ax = mpl.pyplot.subplots()
    plots._outline(ax, np.array([[0, 0], [1, 1]]), IMAGE)
    (lines,) = ax.collections
    assert len(lines.get_segments()) == 2  # one horizontal border, two cells long


# --- the slider -------------------------------------------------------------------------------


MASKS = {4: LABELS > 3, 8: LABELS > 1}


def test_slider_holds_every_kept_set_in_html_without_a_kernel_or_network():
    html = plots.BudgetSlider(IMAGE, MASKS, GRID).html()
    frames = json.loads(re.search(r"frames = (\[.*?\]\]\]);", html)[1])
    assert frames == [[k, np.flatnonzero(m).tolist()] for k, m in MASKS.items()]
    assert "http" not in html and 'max="1"' in html
    assert html.count("%") == html.count("100%") + html.count("i % 4")


def test_slider_widget_exchanges_the_picture():
    slider = plots.BudgetSlider(IMAGE, MASKS, GRID)
    dial, picture = slider.widget().children
    assert dial.value == 8 and picture.value == slider.frame(8)
    dial.value = 4
    assert picture.value == slider.frame(4) != slider.frame(8)


def test_slider_offers_widget_and_html_to_the_front_end():
    bundle = plots.BudgetSlider(IMAGE, MASKS, GRID)._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"} <= set(bundle)


def test_slider_needs_a_kept_set():
    with pytest.raises(ValueError, match="masks is empty"):
        plots.BudgetSlider(IMAGE, {}, GRID)


@pytest.mark.skipif(not shutil.which("node"), reason="node checks the script's syntax")
def test_slider_script_is_valid(tmp_path):
    html = plots.BudgetSlider(IMAGE, MASKS, GRID).html()
    script = tmp_path / "slider.js"
    script.write_text(re.search(r"<script>(.*)</script>", html, re.S)[1])
    subprocess.run(["node", "--check", script], check=True)
