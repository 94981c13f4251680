"""Each term's gains and losses against its worth by definition, with and without every token."""

import pytest
import torch

from lib.selection.terms import Coverage, Entropy, Modular, Volume, weigh
from tests import reference
from tests.reference import KINDS, make_tokens
from tests.selection.test_weighted import weights_of, worth_of

N = 10
TERMS = {
    "cover": lambda K, w: Coverage(K, w, 0.7),
    "entropy": lambda K, w: Entropy(weigh(K, w), 0.7, 60, N),
    "volume": lambda K, w: Volume(K, w, 0.7, N),
    "relevance": lambda K, w: Modular(0.7 * w),
}


def two_items(kind, size=N):
    """Cosines (2, N, N) of two different items and their weights (2, N), of mean one."""
    matrix = torch.stack([reference.gram(make_tokens(kind, size, seed)) for seed in (2, 5)])
    weight = torch.stack([weights_of(size, seed) for seed in (1, 4)])
    return matrix, weight / weight.mean(-1, keepdim=True)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "duplicated"])
@pytest.mark.parametrize("name", TERMS)
def test_a_gain_is_what_the_worth_rises_by_pick_after_pick(name, kind):
    matrix, weight = two_items(kind)
    term, blend = TERMS[name](matrix, weight), {name: 0.7}
    picks = torch.tensor([[3, 9], [7, 0], [0, 5], [9, 3]])  # other ones in either item
    for made in range(len(picks) + 1):
        gains = term.gains()
        assert gains.shape == (2, N)
        for item in range(2):
            kept = picks[:made, item].tolist()
            before = worth_of(matrix[item], weight[item], kept, blend)
            for token in set(range(N)) - set(kept):
                rise = worth_of(matrix[item], weight[item], [*kept, token], blend) - before
                assert float(gains[item, token]) == pytest.approx(rise, rel=1e-4, abs=2e-5)
        if made < len(picks):
            term.add(picks[made])


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "duplicated"])
@pytest.mark.parametrize("name", TERMS)
def test_a_loss_is_what_all_are_worth_more_than_all_but_one(name, kind):
    matrix, weight = two_items(kind)
    losses, blend = TERMS[name](matrix, weight).losses(), {name: 0.7}
    assert losses.shape == (2, N)
    for item in range(2):
        whole = worth_of(matrix[item], weight[item], range(N), blend)
        for token in range(N):
            rest = worth_of(matrix[item], weight[item], set(range(N)) - {token}, blend)
            assert float(losses[item, token]) == pytest.approx(whole - rest, rel=1e-4, abs=2e-5)


def test_a_term_made_for_k_picks_takes_no_more_memory_than_those():
    matrix, weight = two_items("gaussian")
    few, all_ = Volume(matrix, weight, 1.0, 3), Volume(matrix, weight, 1.0, N)
    for pick in ([3, 9], [7, 0], [0, 5]):
        for term in (few, all_):
            term.add(torch.tensor(pick))
    assert few.factor.shape == (2, 1, 3, N)
    torch.testing.assert_close(few.gains(), all_.gains())


def test_alike_tokens_have_no_spread_that_coverage_could_be_measured_by():
    """The unit is bounded below, so that equal tokens do not divide by zero."""
    term = Coverage(torch.ones(1, 4, 4).double(), torch.ones(1, 4).double(), 1.0)
    torch.testing.assert_close(term.gains(), torch.full((1, 4), 4e6).double())
    term.add(torch.tensor([2]))
    assert bool((term.gains() == 0).all())
