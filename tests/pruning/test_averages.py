"""Which averages can be asked for, and tokens by layer against a loop over the layers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.pruning.engine.averages import by_layer, check_average


@pytest.mark.parametrize("average", [None, 1, 2, 576, 1.0, 0.5, 1e-9])
def test_a_count_or_a_share_is_an_average(average):
    check_average(average)


@pytest.mark.parametrize(
    "average", [0, -1, 0.0, -0.5, 1.0000001, 2.0, math.nan, math.inf, True, False, "4", (3,)]
)
def test_anything_else_is_refused_by_its_name(average):
    with pytest.raises(ValueError, match="or a share of them in") as error:
        check_average(average)
    assert str(error.value).endswith(f"got {average!r}")


@given(
    st.integers(1, 50), st.integers(1, 9),
    st.dictionaries(st.integers(0, 8), st.integers(0, 50)),
)  # fmt: skip
def test_a_layer_sees_what_the_last_stage_before_it_left(tokens, depth, left):
    left = {layer: count for layer, count in left.items() if layer < depth}
    found = by_layer(tokens, sorted(left.items()), depth)
    want, now = [], tokens
    for layer in range(depth):
        now = left.get(layer, now)
        want.append(now)
    assert found == want
