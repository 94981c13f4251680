"""Every figure is repeatable, and no text of it is cut off."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from lib.study.reports.plots import (
    ablations,
    efficiency,
    figure1,
    figure2,
    figure3,
    figure4,
    figure5,
    images,
    intervals,
    saving,
)

mpl.use("agg")

GRID = (4, 4)
RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.integers(0, 256, (56, 56, 3), dtype=np.uint8)
LABELS = np.array([0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 2, 2, 3, 4, 4, 4])
POINTS = RANDOM.normal(size=(5, 8))
UNIT = POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True)
GRAM = UNIT @ UNIT.T
CORE = np.array([True, False, True, False, True])


PARTS = ("system", "image", "instruction", "output")
SHARES = np.array([[0.2, 0.5, 0.2, 0.1], [0.6, 0.1, 0.2, 0.1]])
BAND = pd.DataFrame({"mean": [0.4, 0.2], "low": [0.3, 0.1], "high": [0.5, 0.4]})
OPERATORS = np.stack([GRAM, GRAM / 2])
POINTS_FRAME = pd.DataFrame({"value": [1.0, 2], "low": [0.5, 1], "high": [1.5, 3]}, ["a", "b"])
SWEEP = pd.DataFrame(
    [("Unpruned", 1.0, 1.0, 90.0, 89.0, 91.0), ("ToMe", 0.5, 0.5, 80.0, 79.0, 81.0),
     ("ToMe", 0.25, 0.25, 60.0, 59.0, 61.0), ("FastV", 0.5, 0.5, 82.0, 80.0, 85.0)],
    columns=["label", "keep", "kept", "CIDEr", "CIDEr low", "CIDEr high"],
)  # fmt: skip
COST = pd.DataFrame(
    {"end to end (ms)": [100.0, 90], "prefill (ms)": [40.0, 30], "vision (ms)": [20.0, 20],
     "scorer (ms)": [5.0, 1]}, ["FastV", "Entropy + coverage at FastV's layer"],
)  # fmt: skip

FIGURES = {
    "attention": lambda: figure1.attention_by_layer(
        SHARES, [4, 16, 5, 3], PARTS, quoted=0.0021, band=BAND
    ),
    "flow": lambda: figure3.rollout_flow(
        OPERATORS, OPERATORS, ["vision 1", "vision 2"], IMAGE, LABELS.astype(float), GRID
    ),
    "clusters": lambda: figure2.clusters(IMAGE, LABELS, np.arange(5), GRID),
    "agreement": lambda: figure3.rank_agreement(
        {"a": {"scaled": [1, 0.9], "literal": [1, -0.5]}, "b": {"scores": [1, 1]}},
        depths=[[1, 2], [1, 2]],
        bands={"a": {"literal": BAND}},
    ),
    "rollouts": lambda: figure3.agreement(
        {"rollout of entropy ~ of attention": [0.1, 0.5, 0.3], "a ~ b": [0.9, 0.8, -0.2]},
        {"a ~ b": 0.4},
    ),
    "scores": lambda: figure4.cluster_scores(
        np.array([0.3, -0.1, 0.2, -0.2, 0.1]), np.where(CORE, 0.1, np.nan), np.arange(1, 6), CORE
    ),
    "similarity": lambda: figure5.similarity_before_after(
        GRAM, GRAM[CORE][:, CORE], ["a", "b", "c"], sort=np.arange(5)[::-1]
    ),
    "maps": lambda: images.token_maps(IMAGE, {"a": LABELS, "b": -LABELS}, GRID, diverging=True),
    "shared maps": lambda: images.token_maps(
        IMAGE, {str(i): LABELS + i for i in range(6)}, GRID, shared=True, power=0.5, plain=True
    ),
    "kept": lambda: images.kept_patches(IMAGE, {"8": LABELS > 1, "4": LABELS > 2}, GRID),
    "image": lambda: images.patches(IMAGE, GRID),
    "matrices": lambda: images.matrices({"a": GRAM, "b": GRAM}),
    "forest": lambda: intervals.forest({"one": POINTS_FRAME}, metric="CIDEr", reference=0),
    "sweep": lambda: ablations.sweep(SWEEP, metric="CIDEr", against=[("kept", "share")]),
    "split": lambda: efficiency.split(COST, tokens=8),
}

each = pytest.mark.parametrize("name", FIGURES)


@each
def test_it_draws_the_same_bytes_twice(name):
    for kind in ("png", "svg"):
        one, two = (saving._rendered(FIGURES[name](), kind) for _ in range(2))
        assert one == two and len(one) > 2000


@each
def test_no_text_is_cut_off_at_the_edge(name):
    fig = FIGURES[name]()
    saving._headed(fig, "a title with more words than fit into one line of any figure " * 2)
    fig.draw_without_rendering()
    drawn, (width, height) = fig.get_tightbbox(), fig.get_size_inches()
    assert drawn.x0 > -0.02 and drawn.x1 < width + 0.02, drawn
    assert drawn.y0 > -0.02 and drawn.y1 < height + 0.02, drawn


@each
def test_drawing_leaves_nothing_behind_for_a_notebook_to_show(name):
    before = mpl.pyplot.get_fignums()
    FIGURES[name]()
    assert mpl.pyplot.get_fignums() == before


@each
def test_heat_maps_and_pictures_are_told_from_curves(name):
    curves = {"attention", "agreement", "rollouts", "scores", "forest", "sweep", "split"}
    assert saving._pictorial(FIGURES[name]()) == (name not in curves)
