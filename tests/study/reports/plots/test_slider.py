"""The slider holds every kept set, for JupyterLab and for a page without a kernel."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from lib.study.reports.plots.slider import BudgetSlider

GRID = (4, 4)
IMAGE = np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8)
LABELS = np.array([0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 2, 2, 3, 4, 4, 4])
MASKS = {4: LABELS > 3, 8: LABELS > 1}


def test_slider_holds_every_kept_set_in_html_without_a_kernel_or_network():
    html = BudgetSlider(IMAGE, MASKS, GRID).html()
    frames = json.loads(re.search(r"frames = (\[.*?\]\]\]);", html)[1])
    assert frames == [[k, np.flatnonzero(m).tolist()] for k, m in MASKS.items()]
    assert "http" not in html and 'max="1"' in html
    assert html.count("%") == html.count("100%") + html.count("i % 4")


def test_slider_widget_exchanges_the_picture():
    slider = BudgetSlider(IMAGE, MASKS, GRID)
    dial, picture = slider.widget().children
    assert dial.value == 8 and picture.value == slider.frame(8)
    dial.value = 4
    assert picture.value == slider.frame(4) != slider.frame(8)


def test_slider_offers_widget_and_html_to_the_front_end():
    bundle = BudgetSlider(IMAGE, MASKS, GRID)._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"} <= set(bundle)


def test_slider_needs_a_kept_set():
    with pytest.raises(ValueError, match="masks is empty"):
        BudgetSlider(IMAGE, {}, GRID)


@pytest.mark.skipif(not shutil.which("node"), reason="node checks the script's syntax")
def test_slider_script_is_valid(tmp_path):
    html = BudgetSlider(IMAGE, MASKS, GRID).html()
    script = tmp_path / "slider.js"
    script.write_text(re.search(r"<script>(.*)</script>", html, re.S)[1])
    subprocess.run(["node", "--check", script], check=True)
