"""V2Drop against a prefill written out: what the last layer added to each token."""

import pytest

from lib.pruning import create
from tests.pruning.methods.loop import agrees, largest
from tests.tiny import TOKENS, ragged, tiny_llava


@pytest.fixture(scope="module")
def model():
    return tiny_llava(layers=6)


def reference(counts):
    def choose(moment):
        moved = moment.states.double() - moment.before["entering"].double()
        keep = largest(moved.norm(dim=-1)[moment.columns], counts[moment.stage])
        return [moment.columns[i] for i in keep], None

    return choose


@pytest.mark.parametrize("options", [{}, {"keep": 0.3}, {"places": (1, 2, 3), "keep": 0.1}])
def test_it_is_the_written_out_method(model, options):
    """Stages next to each other, too: what a stage left is compared, not what entered it."""
    pruner = create("v2drop", **options)
    with pruner(model):
        counts = pruner.plan(TOKENS)
    agrees(model, pruner, reference(counts), ragged(seed=2))


def test_the_published_schedule():
    counts = create("v2drop").layer_counts(576, 32)
    assert [counts[i] for i in (2, 3, 16, 17, 21, 22, 31)] == [576, 288, 288, 144, 144, 1, 1]
    assert sum(counts) / 32 == pytest.approx((3 * 576 + 14 * 288 + 5 * 144 + 10) / 32)
