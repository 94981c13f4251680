"""The entropy against its definition."""

import math

import pytest
import torch

from lib.entropy import effective_rank, matrix_entropy
from tests import reference
from tests.reference import KINDS, make_tokens

F64 = torch.float64


@pytest.mark.parametrize("kind", KINDS)
def test_entropy_matches_the_definition(kind):
    tokens = make_tokens(kind, 40)
    k = reference.gram(tokens)
    assert matrix_entropy(tokens).item() == pytest.approx(reference.entropy(k), abs=1e-12)
    assert matrix_entropy(tokens.float()).item() == pytest.approx(reference.entropy(k), abs=1e-5)
    assert effective_rank(tokens).item() == pytest.approx(math.exp(reference.entropy(k)), rel=1e-12)


def test_entropy_of_orthonormal_and_of_identical_tokens():
    for size in (1, 2, 5, 32):
        for alpha in (0.5, 1.0, 2.0, math.inf):
            orthonormal = matrix_entropy(torch.eye(size, dtype=F64), alpha)
            assert orthonormal.item() == pytest.approx(math.log(size), abs=1e-13)
            if alpha >= 1:
                same = matrix_entropy(torch.ones(size, 3, dtype=F64), alpha)
                assert same.item() == pytest.approx(0, abs=1e-12)


def test_renyi_orders_match_the_definition_decrease_and_meet_at_one():
    tokens = make_tokens("clustered", 30)
    k = reference.gram(tokens)
    p = torch.linalg.eigvalsh(k / 30).clamp_min(0)
    for alpha in (0.5, 1.5, 2.0, 3.0):
        wanted = math.log((p**alpha).sum()) / (1 - alpha)
        assert matrix_entropy(tokens, alpha).item() == pytest.approx(wanted, abs=1e-12)
    orders = [matrix_entropy(tokens, a).item() for a in (0.5, 0.9, 1.0, 1.1, 2.0, 9.0, math.inf)]
    assert orders == sorted(orders, reverse=True)
    near = matrix_entropy(tokens, 1 + 1e-9).item()
    assert near == pytest.approx(matrix_entropy(tokens).item(), abs=1e-7)


def test_epsilon_is_the_papers():
    tokens = make_tokens("gaussian", 12)
    p = torch.linalg.eigvalsh(reference.gram(tokens) / 12)
    wanted = -(p * (p + 1e-3).log()).sum().item()
    assert matrix_entropy(tokens, eps=1e-3).item() == pytest.approx(wanted, abs=1e-12)
    deficient = make_tokens("rank-deficient", 40, dtype=torch.float32)
    assert torch.isfinite(matrix_entropy(deficient, eps=1e-12))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 3.0, math.inf])
def test_a_batch_has_the_entropies_of_its_items(alpha):
    batch = torch.stack([make_tokens("gaussian", 7, seed) for seed in range(6)]).view(2, 3, 7, -1)
    together = matrix_entropy(batch, alpha)
    for row in range(2):
        for item in range(3):
            alone = matrix_entropy(batch[row, item], alpha)
            torch.testing.assert_close(together[row, item], alone, rtol=0, atol=1e-12)
