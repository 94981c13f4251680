"""The entropy operator against its definition."""

import pytest
import torch
from hypothesis import given, settings

from lib.entropy import entropy_operator, gram, matrix_entropy
from tests import reference
from tests.reference import make_tokens, token_sets

SETTINGS = settings(max_examples=25, deadline=None)
F64 = torch.float64


@SETTINGS
@given(token_sets())
def test_entropy_operator(tokens):
    operator = entropy_operator(tokens)
    wanted = reference.operator(gram(tokens))
    torch.testing.assert_close(operator, wanted, rtol=0, atol=1e-13)
    assert operator.trace().item() == pytest.approx(matrix_entropy(tokens).item(), abs=1e-12)
    assert torch.equal(operator, operator.mT)
    assert torch.linalg.eigvalsh(operator).min() > -1e-13
    integral = entropy_operator(tokens, solver="cholesky")
    torch.testing.assert_close(integral, wanted, rtol=0, atol=1e-9)


def test_entropy_operator_of_masses_and_empty_rows_in_float32():
    mass = torch.tensor([0.0, 4.0, 0.5, 1.0, 9.0])
    k = gram(make_tokens("clustered", 5, dtype=torch.float32)) * (mass * mass.unsqueeze(-1)).sqrt()
    wanted = reference.operator(k.double())
    for solver in ("eigh", "cholesky"):
        operator = entropy_operator(k, gram=True, solver=solver)
        torch.testing.assert_close(operator.double(), wanted, rtol=0, atol=1e-6)
        assert operator[0].abs().max() < 1e-6


@pytest.mark.parametrize("nodes, most", [(12, 1e-3), (40, 1e-6), (200, 1e-6)])
def test_any_number_of_nodes_in_float32(nodes, most):
    """The corrections for the tails make weights negative where nodes are close."""
    tokens = make_tokens("gaussian", 20, dtype=torch.float32)
    wanted = reference.operator(gram(tokens.double()))
    operator = entropy_operator(tokens, solver="cholesky", nodes=nodes)
    torch.testing.assert_close(operator.double(), wanted, rtol=0, atol=most)
    assert torch.equal(operator, operator.mT)


@pytest.mark.parametrize("solver", ["eigh", "cholesky"])
def test_a_batch_of_operators_is_that_of_its_items(solver):
    tokens = torch.stack([make_tokens("clustered", 12, s) for s in range(6)]).reshape(2, 3, 12, 64)
    together = entropy_operator(tokens, solver=solver)
    for i, j in ((0, 0), (1, 2)):
        wanted = reference.operator(reference.gram(tokens[i, j]))
        torch.testing.assert_close(together[i, j], wanted, rtol=0, atol=1e-9)


def test_tokens_are_looked_at_by_default():
    with pytest.raises(ValueError, match="must not be zero"):
        entropy_operator(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="must be symmetric"):
        entropy_operator(torch.ones(3, 3).tril(), gram=True)
