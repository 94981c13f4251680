"""Values and borders stand where their patches are."""

import numpy as np
import pytest

from lib.study.reports.plots import images
from lib.study.reports.plots.style import subplots

IMAGE = np.zeros((8, 8, 3), np.uint8)


def test_values_must_fit_the_grid():
    with pytest.raises(ValueError, match="expected 16 values for grid"):
        images.token_maps(IMAGE, {"a": np.zeros(15)}, (4, 4))


def test_patches_are_outlined_where_labels_change():
    _, ax = subplots(figsize=(2, 2))
    images.outline(ax, np.array([[0, 0], [1, 1]]), IMAGE)
    (lines,) = ax.collections
    assert len(lines.get_segments()) == 2  # one horizontal border, two cells long


def test_a_matrix_shows_every_value_on_the_scale_it_is_given():
    _, ax = subplots(figsize=(2, 2))
    values = np.arange(9.0).reshape(3, 3) / 8
    drawn = images.matrix(ax, values, vmin=-0.5)
    np.testing.assert_array_equal(drawn.get_array(), values)
    assert drawn.get_clim() == (-0.5, 1)


def test_dropped_patches_are_veiled():
    fig = images.kept_patches(IMAGE, {"one": [True, False, False, False]}, (2, 2))
    veil = fig.axes[0].images[1].get_array()
    np.testing.assert_allclose(veil[..., 3], [[0, 0.86], [0.86, 0.86]])
