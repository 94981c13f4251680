"""Joint entropy, mutual information and DiME."""

import math

import pytest
import torch

from lib.entropy import dime, gram, joint_entropy, matrix_entropy, mutual_information
from tests import reference
from tests.reference import make_tokens

F64 = torch.float64


def test_joint_entropy_and_mutual_information():
    x, y = make_tokens("gaussian", 30, 1), make_tokens("clustered", 30, 2)
    hx, hy, joint = matrix_entropy(x), matrix_entropy(y), joint_entropy(x, y)
    assert joint >= max(hx, hy) - 1e-12
    assert joint <= hx + hy + 1e-12
    product = reference.entropy(reference.gram(x) * reference.gram(y))
    assert joint.item() == pytest.approx(product, abs=1e-12)
    torch.testing.assert_close(mutual_information(x, y), hx + hy - joint)
    torch.testing.assert_close(mutual_information(x, y), mutual_information(y, x))
    constant = torch.ones(30, 2, dtype=F64)
    assert mutual_information(x, constant).item() == pytest.approx(0, abs=1e-12)
    assert joint_entropy(gram(x), gram(y), gram=True).item() == pytest.approx(product, abs=1e-12)


def kernel(values):
    """Gaussian Gram matrix of scalars, as in the paper on DiME."""
    return torch.exp(-(values.unsqueeze(-1) - values.unsqueeze(-2)).square() / 0.5)


def test_dime_grows_with_dependence_and_vanishes_without():
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 120, generator=generator, dtype=F64)
    values = []
    for rho in (0.0, 0.5, 0.8, 0.95, 1.0):
        y = rho * x + math.sqrt(1 - rho**2) * noise
        values.append(dime(kernel(x), kernel(y), 8, gram=True).item())
    assert values == sorted(values)
    assert values[-1] > 0.5
    # Independent pairs: zero in expectation. One mean over many pairings against their spread.
    independent = torch.randn(24, 2, 60, generator=generator, dtype=F64)
    samples = dime(kernel(independent[:, 0]), kernel(independent[:, 1]), 8, gram=True)
    assert abs(samples.mean()) < 3 * samples.std() / math.sqrt(24)
    assert samples.std() < 0.1 * values[-1]


def test_dime_is_seeded_and_compares_with_its_own_pairing():
    x = make_tokens("gaussian", 20, 3)
    assert torch.equal(dime(x, x, 4, random_state=1), dime(x, x, 4, random_state=1))
    assert not torch.equal(dime(x, x, 4, random_state=1), dime(x, x, 4, random_state=2))
    batch = torch.stack([x, make_tokens("clustered", 20, 4)])
    torch.testing.assert_close(dime(batch, batch, 4)[0], dime(x, x, 4))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    wanted = joint_entropy(x, x[order]) - joint_entropy(x, x)
    torch.testing.assert_close(dime(x, x, 1), wanted)


def test_dependence_of_batches_is_that_of_their_items():
    x = torch.stack([make_tokens("gaussian", 12, s) for s in range(6)]).reshape(2, 3, 12, 64)
    y = torch.stack([make_tokens("clustered", 12, s) for s in range(6)]).reshape(2, 3, 12, 64)
    for function in (joint_entropy, mutual_information, dime):
        together = function(x, y[..., :5])
        assert together.shape == (2, 3)
        torch.testing.assert_close(together[1, 2], function(x[1, 2], y[1, 2, :, :5]))
    with pytest.raises(ValueError, match="same N items"):
        joint_entropy(x, y[..., :11, :])
