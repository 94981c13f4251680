"""Random choices are fair and repeat."""

from collections import Counter

import pytest

from lib.study.data.scenes.rng import Rng


def test_rng_is_fair_and_repeats():
    rng = Rng(5)
    draws = [rng.below(6) for _ in range(6000)]
    assert min(Counter(draws).values()) > 850
    assert draws == [v for rng in [Rng(5)] for v in (rng.below(6) for _ in range(6000))]
    assert sorted(Rng(1).shuffled(range(9))) == list(range(9))
    picks = Counter(Rng(i).weighted((1, 0, 3)) for i in range(800))
    assert picks[1] == 0 and 2 < picks[2] / picks[0] < 4.5
    with pytest.raises(ValueError, match="positive integers"):
        Rng(0).weighted((2, -1))
