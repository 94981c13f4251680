"""Unit tokens and Gram matrices."""

import pytest
import torch

from lib.entropy import gram, leave_one_out, unit_tokens
from tests import reference
from tests.reference import make_tokens

F64 = torch.float64


def test_gram_is_symmetric_with_unit_diagonal_and_independent_of_scale():
    tokens = make_tokens("gaussian", 20)
    k = gram(tokens)
    assert torch.equal(k, k.mT)
    assert torch.equal(k.diagonal(), torch.ones(20, dtype=F64))
    scales = torch.logspace(-150, 150, 20, dtype=F64).unsqueeze(-1)
    torch.testing.assert_close(gram(tokens * scales), k, rtol=0, atol=2e-15)
    torch.testing.assert_close(k, reference.gram(tokens), rtol=0, atol=2e-15)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_tokens_of_extreme_size_leave_their_neighbours_alone(dtype):
    tokens = make_tokens("gaussian", 12, dtype=dtype)
    small, large = (1e-30, 1e30) if dtype == torch.float32 else (1e-200, 1e200)
    mixed = tokens.clone()
    mixed[3] *= small
    mixed[8] *= large
    ordinary = [i for i in range(12) if i not in (3, 8)]
    got, wanted = unit_tokens(mixed), unit_tokens(tokens)
    assert torch.equal(got[ordinary], wanted[ordinary])
    torch.testing.assert_close(got, wanted, rtol=0, atol=4 * torch.finfo(dtype).eps)
    exact = tokens.double() / tokens.double().norm(dim=-1, keepdim=True)
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_upcast_and_normalised_again(dtype):
    tokens = (make_tokens("clustered", 30) * 300).to(dtype)  # squares overflow float16
    assert torch.isinf(tokens.to(torch.float16).square().sum(-1)).any()
    k = gram(tokens)
    assert k.dtype == torch.float32
    torch.testing.assert_close(k, reference.gram(tokens).float(), rtol=0, atol=1e-6)
    scores = leave_one_out(tokens)
    assert scores.dtype == torch.float32
    exact = reference.leave_one_out(reference.gram(tokens))
    torch.testing.assert_close(scores.double(), exact, rtol=0, atol=1e-6)


def test_autocast_does_not_reach_the_gram_matrix():
    tokens = make_tokens("gaussian", 16, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = gram(tokens)
    assert torch.equal(inside, gram(tokens))


@pytest.mark.parametrize("size", [20, 130])  # the larger one by blocks
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_batch_of_gram_matrices_is_that_of_its_items(size, dtype):
    tokens = torch.stack([make_tokens("clustered", size, s, dtype) for s in range(4)])
    together = gram(tokens.reshape(2, 2, size, 64))
    assert torch.equal(together, together.mT)
    assert (together.diagonal(dim1=-2, dim2=-1) == 1).all()
    atol = 2e-6 if dtype == torch.float32 else 2e-15
    for item in range(4):
        wanted = reference.gram(tokens[item]).to(dtype)
        torch.testing.assert_close(together[item // 2, item % 2], wanted, rtol=0, atol=atol)


def test_gradients_pass_large_gram_matrices():
    tokens = make_tokens("gaussian", 140).requires_grad_()
    gram(tokens).square().sum().backward()
    assert tokens.grad.isfinite().all() and tokens.grad.abs().max() > 0


def test_no_item_at_all_has_no_gram_matrix_but_a_shape():
    assert gram(torch.ones(0, 3, 2)).shape == (0, 3, 3)
