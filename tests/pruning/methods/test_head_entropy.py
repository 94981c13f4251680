"""The namesake's score against eigenvalues head by head, and what it is invariant to."""

import math

import pytest
import torch

from lib.pruning import create
from lib.pruning.head_entropy import head_entropy
from tests.pruning.methods.loop import agrees, largest
from tests.reference import spearman
from tests.tiny import TOKENS, ragged, tiny_llava


@pytest.fixture(scope="module")
def model():
    return tiny_llava()


def naive(query, normalised=False):
    """One token's heads (H, width): eigenvalues of the centred dual Gram, one by one."""
    heads = len(query)
    centred = query.double() - query.double().mean(0)
    values = torch.linalg.eigvalsh(centred @ centred.T / heads).clamp(min=0).tolist()
    if normalised:
        values = [v / sum(values) for v in values]
    values = [max(v, 1e-10) for v in values]
    return -sum(v * math.log(v) for v in values) / math.log(heads)


@pytest.mark.parametrize("normalised", [False, True])
def test_it_is_the_written_out_method(model, normalised):
    pruner = create("head-entropy", keep=0.3, normalised=normalised)

    def choose(moment):
        queries = moment.before["queries"]  # with the rotary embedding, which cancels
        scores = [naive(queries[:, c], normalised) for c in moment.columns]
        keep = largest(scores, pruner.budget(TOKENS))
        return [moment.columns[i] for i in keep], None

    agrees(model, pruner, choose, ragged())


def test_the_score_of_the_release_depends_on_scale_and_the_normalised_one_does_not():
    queries = torch.randn(200, 8, 16, generator=torch.Generator().manual_seed(0))
    queries = queries * torch.linspace(0.05, 3, 200)[:, None, None]
    plain, shape = head_entropy(queries), head_entropy(queries, normalised=True)
    torch.testing.assert_close(head_entropy(7 * queries, normalised=True), shape)
    assert spearman(head_entropy(0.02 * queries), plain) < -0.5  # the ranking is turned round
    energy = queries.square().sum((1, 2)).double()
    assert abs(spearman(plain, energy)) > 0.9 > 0.3 > abs(spearman(shape, energy))


def test_rotations_of_all_heads_and_a_common_vector_change_nothing():
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(5, 8, 16, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64)).Q
    scores = head_entropy(queries)
    torch.testing.assert_close(head_entropy(queries @ turn), scores)
    torch.testing.assert_close(head_entropy(queries + torch.randn(16, generator=generator)), scores)


def test_heads_that_agree_have_no_entropy():
    same = torch.randn(3, 1, 16).expand(3, 8, 16)
    assert head_entropy(same).abs().max() < 1e-6
    assert head_entropy(same, normalised=True).abs().max() < 1e-6


@pytest.mark.parametrize("average, kept", [(192, 166), (128, 98), (64, 29)])
def test_its_released_counts_are_those_of_an_average(average, kept):
    counts = create("head-entropy", average=average).layer_counts(576, 32)
    assert counts[2:] == [kept] * 30
