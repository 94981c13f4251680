"""The merge of several layers: eq. 6, its scaled form, and the reading for scores."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.entropy import entropy_operator, leave_one_out
from lib.rollout import (
    attention_rollout,
    attention_step,
    importance,
    rolled_importance,
    rollout,
)
from tests.reference import make_tokens, spearman

F64 = torch.float64


def layers_of_one_image(depth, size=32, noise=0.15):
    """Tokens that drift from layer to layer, as in a residual network, with a few outliers."""
    generator = torch.Generator().manual_seed(1)
    tokens = make_tokens("clustered", size)
    tokens[:4] = 2 * torch.randn(4, 64, generator=generator, dtype=F64)
    layers = []
    for _ in range(depth):
        tokens = tokens + noise * torch.randn(size, 64, generator=generator, dtype=F64)
        layers.append(tokens)
    return layers


def test_literal_is_equation_six():
    a, b, c = torch.randn(3, 2, 5, 5, dtype=F64)
    eye = torch.eye(5, dtype=F64)
    torch.testing.assert_close(rollout([a, b, c], "literal"), (c + eye) @ (b + eye) @ a)
    torch.testing.assert_close(rollout([a, b, c], "scaled"), (c / 3 + eye) @ (b / 3 + eye) @ a)
    torch.testing.assert_close(rollout(torch.stack([a, b, c])), rollout([a, b, c]))
    torch.testing.assert_close(rollout(iter([a, b, c])), rollout([a, b, c]))


def test_scores_multiply_elementwise():
    a, b, c = torch.randn(3, 2, 5, dtype=F64)
    torch.testing.assert_close(rollout([a, b, c], "scores"), (1 + c) * (1 + b) * (1 + a) - 1)


@pytest.mark.parametrize("variant", ["scaled", "literal", "scores"])
def test_one_layer_is_itself_and_order_of_batches_is_kept(variant):
    shape = (3, 4) if variant == "scores" else (3, 4, 4)
    one, two = torch.randn(2, *shape, dtype=F64)
    assert torch.equal(rollout([one], variant), one)
    merged = rollout([one, two], variant)
    for i in range(3):
        torch.testing.assert_close(merged[i], rollout([one[i], two[i]], variant))


def test_importance_is_the_diagonal_or_the_scores():
    merged = torch.randn(2, 3, 3)
    assert torch.equal(importance(merged), merged.diagonal(dim1=-2, dim2=-1))
    assert torch.equal(importance(merged, "scores"), merged)


def test_the_literal_product_inverts_the_ranking_at_ten_layers_and_the_scaled_one_does_not():
    layers = layers_of_one_image(10)
    operators = [entropy_operator(layer) for layer in layers]
    average = torch.stack([leave_one_out(layer) for layer in layers]).mean(0)

    def agreement(variant):
        return spearman(importance(rollout(operators, variant)), average)

    assert agreement("scaled") > 0.8
    assert agreement("literal") < -0.3
    # With few layers both agree.
    few = rollout(operators[:2], "literal").diagonal()
    assert spearman(few, average) > 0.8


def test_one_direction_takes_over_the_literal_product():
    operators = [entropy_operator(layer) for layer in layers_of_one_image(24)]

    def dominance(variant):
        values = torch.linalg.svdvals(rollout(operators, variant))
        return (values[0] / values[1]).item()

    assert dominance("literal") > 1.8 * dominance("scaled")


def test_scores_behave_as_an_average_over_layers():
    layers = layers_of_one_image(10)
    scores = [leave_one_out(layer) for layer in layers]
    average = torch.stack(scores).mean(0)
    assert spearman(rollout(scores, "scores"), average) > 0.99


def test_the_scaled_merge_leans_on_its_first_layer():
    layers = layers_of_one_image(10, noise=0.4)
    merged = rollout([entropy_operator(layer) for layer in layers], "scaled").diagonal()
    first, last = leave_one_out(layers[0]), leave_one_out(layers[-1])
    assert spearman(merged, first) > 0.95 > 0.8 > spearman(merged, last)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(0, 1000))
def test_permuting_the_tokens_permutes_the_merge(depth, seed):
    generator = torch.Generator().manual_seed(seed)
    layers = [make_tokens("gaussian", 9, seed + d) for d in range(depth)]
    order = torch.randperm(9, generator=generator)
    merged = rollout([entropy_operator(x) for x in layers])
    permuted = rollout([entropy_operator(x[order]) for x in layers])
    torch.testing.assert_close(permuted, merged[order][:, order], rtol=0, atol=1e-12)


def test_errors():
    with pytest.raises(ValueError, match=r"variant must be one of .* got 'mean'"):
        rollout([torch.eye(2)], "mean")
    with pytest.raises(ValueError, match="at least one layer, got none"):
        rollout([])
    with pytest.raises(
        ValueError, match=r"same shape \(\.\.\., M, M\), got \[\(2, 2\), \(3, 3\)\]"
    ):
        rollout([torch.eye(2), torch.eye(3)])
    with pytest.raises(ValueError, match=r"same shape \(\.\.\., M, M\), got \[\(2, 3\)\]"):
        rollout([torch.ones(2, 3)])
    with pytest.raises(ValueError, match=r"same shape .* got \[\(4, 2, 3\)\]"):
        rollout([torch.ones(4, 2, 3)])


@pytest.mark.parametrize("variant", ["scaled", "literal", "scores"])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_importance_without_the_last_product(variant, depth):
    score = leave_one_out if variant == "scores" else entropy_operator
    layers = [score(tokens.expand(2, -1, -1)) for tokens in layers_of_one_image(depth)]
    wanted = importance(rollout(layers, variant), variant)
    torch.testing.assert_close(rolled_importance(layers, variant), wanted, rtol=0, atol=1e-14)
    stacked = rolled_importance(torch.stack(layers), variant)
    torch.testing.assert_close(stacked, wanted, rtol=0, atol=1e-14)


def test_importance_refuses_what_the_rollout_refuses():
    with pytest.raises(ValueError, match="variant must be one of"):
        rolled_importance([torch.eye(2)], "sum")
    with pytest.raises(ValueError, match="at least one layer"):
        rolled_importance([])
    with pytest.raises(ValueError, match="same shape"):
        rolled_importance([torch.eye(2), torch.eye(3)])


def test_rollout_of_attention_is_the_product_of_half_the_attention_and_half_the_residual():
    layers = torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(0)).softmax(-1)
    product = torch.eye(5, dtype=torch.float64)
    for layer in layers.double():
        product = (0.5 * layer + 0.5 * torch.eye(5)) @ product
    merged = attention_rollout(layers)
    torch.testing.assert_close(merged.double(), product, atol=1e-6, rtol=0)
    torch.testing.assert_close(merged.sum(-1), torch.ones(2, 5))
    stepwise = None
    for layer in layers:
        stepwise = attention_step(stepwise, layer)
    torch.testing.assert_close(stepwise, merged)


def test_rollout_of_attention_refuses_nothing_and_other_shapes():
    with pytest.raises(ValueError, match="at least one layer"):
        attention_rollout([])
    with pytest.raises(ValueError, match="same shape"):
        attention_rollout([torch.eye(2), torch.eye(3)])
