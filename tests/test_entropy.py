"""Matrix entropy and the exact leave-one-out scores, against the definitions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.entropy import (
    dime,
    effective_rank,
    entropy_operator,
    gram,
    joint_entropy,
    leave_one_out,
    matrix_entropy,
    mutual_information,
    unit_tokens,
)
from lib.entropy.leave_one_out import losses_of
from tests import reference
from tests.reference import KINDS, make_tokens

SETTINGS = settings(max_examples=25, deadline=None)
F64 = torch.float64


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Thousands of tiny decompositions: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@st.composite
def token_sets(draw, least=2, most=24):
    """Random tokens of every character, including duplicates and rank deficiency."""
    size = draw(st.integers(least, most))
    return make_tokens(draw(st.sampled_from(KINDS)), size, draw(st.integers(0, 10_000)))


def losses(matrix, solver="eigh", nodes=50):
    return losses_of(matrix, nodes, solver)[0]


# --- Gram -----------------------------------------------------------------------------------------


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


# --- entropy --------------------------------------------------------------------------------------


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


# --- leave one out --------------------------------------------------------------------------------


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


# --- analytic cases and properties ----------------------------------------------------------------


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


# --- dependence -----------------------------------------------------------------------------------


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


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(0, 4), r"N, D >= 1, got \(0, 4\)"),
        (torch.zeros(4, 0), r"N, D >= 1, got \(4, 0\)"),
        (torch.zeros(4), r"N, D >= 1, got \(4,\)"),
        (torch.tensor([[1.0, 2.0], [float("nan"), 1.0]]), r"finite, got nan at index \[1\] of sha"),
        (torch.tensor([[[1.0, -torch.inf]]]), r"finite, got inf at index \[0, 0\] of shape \(1, 1"),
        (
            torch.tensor([[1.0, 2.0], [0.0, 0.0]]),
            r"must not be zero.*index \[1\] of shape \(2, 2\)",
        ),
    ],
)
def test_bad_tokens_raise_one_clear_error(tokens, message):
    for function in (gram, matrix_entropy, leave_one_out, entropy_operator, effective_rank):
        with pytest.raises(ValueError, match=message):
            function(tokens)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.zeros(2, 3), r"\(\.\.\., N, N\) with N >= 1, got \(2, 3\)"),
        (torch.full((2, 2), torch.nan), "finite, got nan at index"),
        (torch.tensor([[1.0, 0.0], [0.0, -1.0]]), r"not be negative, got -1.0 at index \[1\]"),
        (torch.zeros(2, 2), "positive trace, got 0.0"),
        (torch.tensor([[1.0, 0.9], [0.1, 1.0]]), r"symmetric, got an asymmetry of 0\.(79|8)"),
    ],
)
def test_bad_gram_matrices_raise_one_clear_error(matrix, message):
    with pytest.raises(ValueError, match=message):
        matrix_entropy(matrix, gram=True)


def test_bad_arguments():
    tokens = torch.eye(3)
    with pytest.raises(ValueError, match=r"method must be one of .* got 'fast'"):
        leave_one_out(tokens, "fast")
    with pytest.raises(ValueError, match=r"solver must be one of .* got 'qr'"):
        leave_one_out(tokens, solver="qr")
    with pytest.raises(ValueError, match=r"nodes must be between 4 and 1024, got 2"):
        leave_one_out(tokens, nodes=2)
    with pytest.raises(ValueError, match=r"alpha must be positive, got 0"):
        matrix_entropy(tokens, 0)
    with pytest.raises(ValueError, match=r"eps=0.1, alpha=2"):
        matrix_entropy(tokens, 2, eps=0.1)
    with pytest.raises(ValueError, match=r"permutations must be at least 1, got 0"):
        dime(tokens, tokens, 0)
    with pytest.raises(ValueError, match=r"same N items, got shapes \(3, 3\) and \(2, 2\)"):
        joint_entropy(tokens, torch.eye(2))
    with pytest.raises(TypeError, match=r"floating-point tensor, got torch.int64"):
        gram(torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"floating-point tensor, got torch.int64"):
        matrix_entropy(torch.ones(2, 2, dtype=torch.int64), gram=True)


def test_unchecked_is_the_same_answer():
    tokens = make_tokens("clustered", 20)
    for method in ("exact", "naive", "first-order", "renyi2"):
        a, b = leave_one_out(tokens, method), leave_one_out(tokens, method, check=False)
        assert torch.equal(a, b)
