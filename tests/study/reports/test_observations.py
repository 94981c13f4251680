"""What follows from stored attention."""

import numpy as np
import pytest

from lib.study.reports.observations import Attention


def test_per_token_attention_and_its_ratio():
    shares = np.array([[0.5, 0.4, 0.1, 0.0], [0.8, 0.1, 0.05, 0.05]], np.float32)
    result = Attention(None, shares, [4, 100, 5, 3], None, "", (10, 10), 1)
    assert result.per_token[1, 1] == pytest.approx(0.001)
    assert result.image_to_system(1) == pytest.approx(0.001 / 0.2)
    assert result.image_to_system() == pytest.approx((0.004 + 0.001) / (0.125 + 0.2))
