"""Coverage of pixels by a shape against counting samples one by one."""

import numpy as np
import pytest

from lib.study.data.scenes import SHAPES
from lib.study.data.scenes.shapes import coverage


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_is_bounded_and_symmetric_about_the_upright_axis(shape):
    cover = coverage(shape, 24)
    assert cover.shape == (24, 24) and cover.dtype == np.int16
    assert cover.min() == 0 and cover.max() == 256
    if shape != "moon":  # samples on an edge fall to one side of it
        assert np.abs(cover - cover[:, ::-1]).max() <= 40


def test_a_circle_covers_its_area():
    side = 60
    area = coverage("circle", side).sum() / 256
    assert area == pytest.approx(np.pi * 0.94 * (side / 2) ** 2, rel=0.01)


def test_an_unknown_shape_is_named():
    with pytest.raises(ValueError, match="unknown shape 'blob': use one of circle"):
        coverage("blob", 12)
