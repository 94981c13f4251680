"""The exact leave-one-out scores, against the definition and in analytic cases."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.entropy import entropy_operator, gram, leave_one_out, matrix_entropy
from lib.entropy.leave_one_out import losses_of
from tests import reference
from tests.reference import KINDS, make_tokens, token_sets

SETTINGS = settings(max_examples=25, deadline=None)
F64 = torch.float64


def losses(matrix, solver="eigh", nodes=50):
    return losses_of(matrix, nodes, solver)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [16, 48, 96])
def test_exact_agrees_with_naive(kind, size):
    tokens = make_tokens(kind, size)
    wanted = reference.leave_one_out(reference.gram(tokens))
    for options in ({"solver": "eigh"}, {"solver": "cholesky"}, {"nodes": 32}):
        got = leave_one_out(tokens, **options)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)
    naive = leave_one_out(tokens, "naive")
    torch.testing.assert_close(naive, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_exact_agrees_with_naive_at_full_size_on_some_tokens(kind):
    size = 576
    tokens = make_tokens(kind, size)
    k = reference.gram(tokens)
    scores = leave_one_out(tokens)
    full = reference.entropy(k)
    for i in (0, 101, 575):
        wanted = full - reference.entropy(reference.without(k, i))
        assert scores[i].item() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("solver", ["eigh", "cholesky"])
@pytest.mark.parametrize("kind", KINDS)
def test_float32_scores_and_their_ranking(kind, solver):
    tokens = make_tokens(kind, 64, dtype=torch.float32)
    wanted = reference.leave_one_out(reference.gram(tokens))
    got = leave_one_out(tokens, solver=solver)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double() * 64, wanted * 64, rtol=0, atol=3e-5)
    assert reference.spearman(got.double(), wanted) > 0.998  # near-ties swap


@pytest.mark.parametrize("solver", ["eigh", "cholesky"])
def test_any_diagonal_and_rows_of_zeros(solver):
    k = reference.gram(make_tokens("clustered", 12))
    mass = torch.linspace(0.1, 5, 12, dtype=F64).sqrt()
    k = k * mass * mass.unsqueeze(-1)
    wanted = reference.leave_one_out(k)
    got = leave_one_out(k, gram=True, solver=solver)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)
    torch.testing.assert_close(
        leave_one_out(k * 1e6, gram=True, solver=solver), wanted, rtol=0, atol=1e-9
    )
    torch.testing.assert_close(leave_one_out(k, "naive", gram=True), wanted, rtol=0, atol=1e-12)
    padded = torch.zeros(15, 15, dtype=F64)
    padded[:12, :12] = k
    got = leave_one_out(padded, gram=True, solver=solver)
    wanted = torch.cat([wanted, torch.zeros(3, dtype=F64)])
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", ["exact", "naive", "first-order", "renyi2"])
@pytest.mark.parametrize("solver", ["eigh", "cholesky"])
def test_one_token_and_one_token_among_zeros_score_zero(method, solver):
    options = {"method": method, "solver": solver}
    assert leave_one_out(torch.randn(2, 1, 7), **options).tolist() == [[0.0], [0.0]]
    assert matrix_entropy(torch.randn(1, 7)).item() == 0
    lonely = torch.zeros(4, 4, dtype=F64)
    lonely[1, 1] = 3
    scores = leave_one_out(lonely, gram=True, **options)
    torch.testing.assert_close(scores, torch.zeros(4, dtype=F64), rtol=0, atol=1e-9)


def test_scores_keep_their_negative_values():
    scores = leave_one_out(make_tokens("clustered", 64))
    assert 0.2 < (scores < 0).double().mean() < 0.8


def test_a_planted_outlier_scores_highest():
    tokens = make_tokens("clustered", 40)
    tokens[17] = 100 * torch.randn(64, dtype=F64, generator=torch.Generator().manual_seed(5))
    for method in ("exact", "first-order", "renyi2"):
        assert leave_one_out(tokens, method).argmax().item() == 17


@pytest.mark.parametrize("kind", KINDS)
def test_first_order_is_the_operators_diagonal_and_ranks_like_exact(kind):
    tokens = make_tokens(kind, 96)
    first = leave_one_out(tokens, "first-order")
    operator = entropy_operator(tokens)
    entropy = matrix_entropy(tokens)
    torch.testing.assert_close(first, operator.diagonal() - entropy / 96, rtol=0, atol=1e-12)
    other = leave_one_out(tokens, "first-order", solver="cholesky")
    torch.testing.assert_close(first, other, rtol=0, atol=1e-9)
    exact = leave_one_out(tokens)
    assert reference.spearman(first, exact) > 0.97
    # It is the derivative, not only a ranking: up to a common shift the scale agrees too.
    shift = (exact - first).mean()
    assert (exact - first - shift).abs().max() < 0.35 * (exact - exact.mean()).abs().max()


def test_renyi2_is_exact_for_the_order_two_entropy():
    tokens = make_tokens("clustered", 30)
    k = gram(tokens)
    full = matrix_entropy(tokens, 2)
    wanted = [full - matrix_entropy(reference.without(k, i), 2, gram=True) for i in range(30)]
    got = leave_one_out(tokens, "renyi2")
    torch.testing.assert_close(got, torch.stack(wanted), rtol=0, atol=1e-13)
    # The formula for unit diagonals.
    rows = k.square().sum(-1)
    total = rows.sum()
    formula = ((total - 2 * rows + 1) / total).log() + 2 * math.log(30 / 29)
    torch.testing.assert_close(got, formula, rtol=0, atol=1e-13)


def test_leading_dimensions_and_batch_equals_single():
    batch = torch.stack([make_tokens(kind, 24) for kind in ("gaussian", "clustered")]).unsqueeze(1)
    for method in ("exact", "naive", "first-order", "renyi2"):
        for solver in ("eigh", "cholesky"):
            scores = leave_one_out(batch, method, solver=solver)
            assert scores.shape == (2, 1, 24)
            single = leave_one_out(batch[1, 0], method, solver=solver)
            torch.testing.assert_close(scores[1, 0], single, rtol=0, atol=1e-12)
    assert matrix_entropy(batch).shape == (2, 1)
    assert entropy_operator(batch).shape == (2, 1, 24, 24)


def test_scores_are_differentiable():
    tokens = make_tokens("gaussian", 6).requires_grad_()
    with torch.inference_mode():  # what is cached here must not spoil the gradient below
        leave_one_out(tokens, nodes=23)
    for solver in ("eigh", "cholesky"):
        assert torch.autograd.gradcheck(
            lambda x, s=solver: leave_one_out(x, solver=s, nodes=23, check=False), tokens, atol=1e-4
        )


@pytest.mark.parametrize("solver", ["eigh", "cholesky"])
def test_orthonormal_tokens_lose_nothing(solver):
    d = losses(torch.eye(10, dtype=F64), solver)
    torch.testing.assert_close(d, torch.zeros(10, dtype=F64), rtol=0, atol=1e-15)
    scores = leave_one_out(torch.eye(10, dtype=F64), solver=solver)
    torch.testing.assert_close(scores, torch.full((10,), math.log(10 / 9), dtype=F64))


@pytest.mark.parametrize("solver", ["eigh", "cholesky"])
def test_identical_tokens_score_zero(solver):
    scores = leave_one_out(torch.ones(20, 4, dtype=F64), solver=solver)
    torch.testing.assert_close(scores, torch.zeros(20, dtype=F64), rtol=0, atol=3e-9)


@pytest.mark.parametrize("solver", ["eigh", "cholesky"])
@pytest.mark.parametrize("copies", [2, 3, 8])
def test_orthogonal_groups_of_copies(copies, solver):
    k = gram(torch.eye(5, dtype=F64).repeat_interleave(copies, 0))
    wanted = copies * math.log(copies) - (copies - 1) * math.log(copies - 1)
    d = losses(k, solver)
    torch.testing.assert_close(d, torch.full_like(d, wanted), rtol=0, atol=3e-9)


def test_copies_tie():
    tokens = make_tokens("gaussian", 20)
    tokens[13] = -2 * tokens[4]
    scores = leave_one_out(tokens)
    assert scores[13].item() == pytest.approx(scores[4].item(), abs=1e-13)


@SETTINGS
@given(token_sets(), st.integers(0, 1000))
def test_invariances(tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = leave_one_out(tokens)
    size, width = tokens.shape
    order = torch.randperm(size, generator=generator)
    q, _ = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=F64))
    sign = torch.randint(0, 2, (size, 1), generator=generator) * 2.0 - 1
    scale = torch.rand(size, 1, generator=generator, dtype=F64) + 0.1
    close = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(leave_one_out(tokens[order]), scores[order], **close)
    torch.testing.assert_close(leave_one_out(tokens @ q), scores, **close)
    torch.testing.assert_close(leave_one_out(tokens * sign), scores, **close)
    torch.testing.assert_close(leave_one_out(tokens * scale), scores, **close)
    torch.testing.assert_close(matrix_entropy(tokens[order] @ q), matrix_entropy(tokens), **close)


@SETTINGS
@given(token_sets(), st.sampled_from(["eigh", "cholesky"]))
def test_bounds_of_thelosses_of(tokens, solver):
    k = gram(tokens)
    d, diagonal = losses_of(k, 50, solver)
    assert (d >= -1e-9).all()
    assert (d <= diagonal + 1 + 1e-9).all()
    torch.testing.assert_close(d, reference.losses(k), rtol=0, atol=1e-8)


@SETTINGS
@given(token_sets(least=3), st.data())
def test_losses_grow_with_the_set(tokens, data):
    subset = data.draw(st.integers(2, len(tokens) - 1))
    k = gram(tokens)
    small, large = losses(k[:subset, :subset]), losses(k)[:subset]
    assert (small <= large + 1e-9).all()


@SETTINGS
@given(token_sets(), st.integers(1, 8))
def test_padding_with_identity_rows_changes_no_loss(tokens, extra):
    k = gram(tokens)
    size = len(tokens)
    padded = torch.eye(size + extra, dtype=F64)
    padded[:size, :size] = k
    d = losses(padded, nodes=64)
    torch.testing.assert_close(d[:size], losses(k, nodes=64), rtol=0, atol=1e-10)
    torch.testing.assert_close(d[size:], torch.zeros(extra, dtype=F64), rtol=0, atol=1e-10)


@SETTINGS
@given(token_sets(most=12))
def test_losses_removed_backwards_sum_to_f(tokens):
    k = gram(tokens)
    wanted = reference.trace_form(k)
    total = 0.0
    while len(k) > 1:
        d = losses(k)
        worst = int(d.argmax())
        total += d[worst].item()
        k = reference.without(k, worst)
    assert total == pytest.approx(wanted, abs=2e-8)  # the last token alone has F = 0
