"""Gram matrices, and what is made of their resolvents, by the interpreter."""

from __future__ import annotations

import math

import pytest
import torch

from lib.entropy import entropy_operator, gram, leave_one_out
from tests.kernels.interpreted.kit import interpreted, make

pytestmark = interpreted


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_gram(dtype):
    tokens = make("themes", 70, width=100).to(dtype)
    exact = gram(tokens.double())
    ours = gram(tokens)
    assert (ours - exact).abs().max() < 1e-5 and torch.equal(ours, ours.mT)


@pytest.mark.parametrize("scale", [1e-30, 1, 1e30])
def test_gram_of_tokens_as_they_are(scale):
    from lib.kernels import operations

    tokens = make("themes", 40) * torch.linspace(0.1, 10, 40)[:, None]
    tokens[:, 3] = 0
    rows = tokens.double()
    exact = rows @ rows.mT
    exact /= exact.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    given = tokens * scale
    ours = operations.gram(given, raw=True)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-6)
    assert torch.equal(ours, ours.mT)
    assert not operations.gram(torch.zeros(1, 16, 4), raw=True).any()


def test_scores_and_operator():
    size = 40
    matrix = gram(make("themes", size, items=1).double())
    scores = leave_one_out(matrix.float(), gram=True, solver="cholesky")
    exact = leave_one_out(matrix, gram=True, solver="eigh")
    assert (scores - exact).abs().max() < 5e-5 / size
    exact = entropy_operator(matrix, gram=True, solver="eigh")
    for nodes in (None, 24):  # fitted, or by the rule
        operator = entropy_operator(matrix.float(), gram=True, solver="cholesky", nodes=nodes)
        assert (operator - exact).abs().max() < 2e-4 / size


def test_resolvents_of_several_tiles():
    from lib.kernels import operations

    matrix = gram(make("themes", 130, items=1).double())  # of three tiles, the last nearly empty
    t = torch.tensor([0.1, 2.0])
    shifted = matrix.unsqueeze(1) + t.double()[:, None, None] * torch.eye(130)
    inverse = torch.linalg.inv(shifted)
    wanted = (shifted.diagonal(dim1=-2, dim2=-1) * inverse.diagonal(dim1=-2, dim2=-1)) - 1
    found = operations.resolvent_diagonal(matrix.float(), t).double()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("power", [0, 1, 4])
def test_operators_of_several_tiles_are_products_of_resolvents(power):
    from lib.kernels import operations

    size, t, weights = 130, torch.tensor([0.1, 2.0, 300.0]), torch.tensor([0.7, 0.3, 2.0])
    matrix = gram(make("themes", size, items=2).double())
    lengths = torch.linspace(0, 1, size, dtype=torch.float64) ** power  # the first is 0, or all 1
    matrix *= lengths[:, None] * lengths
    matrix /= matrix.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    eye = torch.eye(size, dtype=torch.float64)
    less = matrix - eye
    inverse = torch.linalg.inv(matrix.unsqueeze(1) + t.double()[:, None, None] * eye)
    between = (weights.double()[:, None, None] * inverse).sum(1)
    wanted = (matrix * math.log(size) - less - less @ between @ less) / size
    found = operations.entropy_operator(matrix.float(), t, weights)
    assert torch.equal(found, found.mT)
    torch.testing.assert_close(found.double(), wanted, rtol=2e-5, atol=5e-5 / size)


def test_nearly_equal_tokens_are_survived():
    # copies whose cosines exceed one by rounding: the smallest eigenvalue is negative
    matrix = torch.full((64, 64), 1 + 1e-5)
    matrix.diagonal().fill_(1)
    scores = leave_one_out(matrix, gram=True, solver="cholesky")
    assert scores.abs().max() < 1e-5


def test_no_pivot_falls_below_the_node():
    from lib.kernels import resolvent as module

    # The second pivot of I + X would be 1 - 1.5²; the least that K + t allows is t / (c + t).
    y = torch.zeros(1, 64, 64)
    y[0, 1, 0] = y[0, 0, 1] = 1.5
    m, mt = torch.zeros(2, 1, 64, 64)
    c, t = torch.ones(1, 64), torch.tensor([0.01])
    module._pivot_kernel[(1,)](y, m, mt, c, t, 64, 64, 1, 0, HALF=32)
    wanted = torch.ones(64)
    wanted[1] = (0.01 / 1.01) ** -0.5
    torch.testing.assert_close(m[0].diagonal(), wanted)
    assert torch.equal(mt[0], m[0].mT)
