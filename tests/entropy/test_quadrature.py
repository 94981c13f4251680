"""The restructured integrals of the kernels, by dense inverses."""

import pytest
import torch

from lib.entropy import entropy_operator, gram
from lib.entropy.quadrature import blocks, fitted, kernel_quadrature, quadrature
from lib.selection.greedy import _FEW
from tests.kernels.kinds import KINDS, make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [16, 90])
def test_the_resolvents_diagonal_is_the_reference_integrand(kind, size):
    matrix = gram(make(kind, size)[0])
    scale = torch.linspace(0.5, 2, size, dtype=torch.float64).sqrt()
    matrix = matrix * scale.outer(scale)
    c = matrix.diagonal()
    for t, _, solved in blocks(matrix, 12, c):
        inverse = torch.linalg.inv(matrix + t[:, None, None] * torch.eye(size))
        shifted = c + t[:, None]
        reference = solved.square().sum(-2) / shifted
        ours = shifted * inverse.diagonal(dim1=-2, dim2=-1) - 1
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fitted_nodes_integrate_the_operator(kind):
    size = 90
    matrix = gram(make(kind, size)[0])
    t, weights = fitted(size, torch.float64, torch.device("cpu"))
    eye = torch.eye(size, dtype=torch.float64)
    between = (weights[:, None, None] * torch.linalg.inv(matrix + t[:, None, None] * eye)).sum(0)
    e = matrix - eye
    operator = (matrix * torch.log(torch.tensor(float(size))) - e - e @ between @ e) / size
    assert (operator - entropy_operator(matrix, gram=True)).abs().max() < 1e-4 / size


@pytest.mark.parametrize("size", [16, 32, 288, 576, 2304])
def test_the_fit_is_as_good_as_it_says(size):
    t, weights = fitted(size, torch.float64, torch.device("cpu"))
    x = torch.cat([torch.linspace(1e-9, size, 4001), torch.logspace(-9, 0, 500)]).double()
    x = x.clamp_max(size)
    value = torch.special.xlogy(x, x) - x + 1
    fit = (x - 1).square() * (weights / (x[:, None] + t)).sum(-1)
    assert ((fit - value).abs() / (1 + torch.special.xlogy(x, x).abs())).max() < 1e-4


@pytest.mark.parametrize("kind", ["gaussian", "biased", "themes"])
@pytest.mark.parametrize("size", [64, 576])
def test_the_few_nodes_of_greedy_kernels_rank_as_many_do(kind, size):
    matrix = gram(make(kind, size).double())[0]
    picked, others = matrix[: size // 4, : size // 4], matrix[: size // 4, size // 4 :]
    values, vectors = torch.linalg.eigh(picked)
    parts = (vectors.T @ others).square()

    def gains(nodes):
        """log of the share of each token that the picked ones do not explain, integrated."""
        t, w = (x.double() for x in nodes)
        explained = (parts / (values.clamp_min(0)[:, None] + t[:, None, None])).sum(1)
        share = torch.maximum(1 + t[:, None] - explained, t[:, None]) / (1 + t[:, None])
        return (w[:, None] * share.log()).sum(0)

    many = gains(quadrature(120, size, torch.float64, matrix.device))
    few = gains(kernel_quadrature(None, matrix.float(), **_FEW))
    wrong = few - many
    assert (wrong - wrong.mean()).abs().max() < 1e-4 * (many.max() - many.min())
