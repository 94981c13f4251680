"""Bad input gets one clear error, whatever function is asked."""

import pytest
import torch

from lib.entropy import (
    dime,
    effective_rank,
    entropy_operator,
    gram,
    joint_entropy,
    leave_one_out,
    matrix_entropy,
    mutual_information,
)
from tests.reference import make_tokens


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
    for function in (joint_entropy, mutual_information, dime):
        for pair in ((tokens, torch.eye(2)), (torch.eye(2), tokens)):
            with pytest.raises(ValueError, match=message):
                function(*pair)


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
