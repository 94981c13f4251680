"""SCOPE: coverage weighted by the class token's attention, against its definition."""

import pytest
import torch

from lib.pruning import create
from tests.pruning.methods.reference import Tower, cosines, kept_by
from tests.tiny import TOKENS, ragged


def definition(features, weights, budget, alpha):
    similar, size = cosines(features), len(features)
    covered, chosen = [0.0] * size, []
    for _ in range(budget):
        gains = [
            -1.0
            if i in chosen
            else sum(max(0.0, similar[i, j].item() - covered[j]) for j in range(size))
            * weights[i].item() ** alpha
            for i in range(size)
        ]  # fmt: skip
        # two tokens that cover each other gain the same: the first one is taken
        best = max(range(size), key=lambda i: (round(gains[i], 9), -i))
        chosen.append(best)
        covered = [max(c, similar[best, j].item()) for j, c in enumerate(covered)]
    return chosen


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_follows_its_definition_and_budgets_are_nested(model, alpha):
    inputs = ragged()
    tower = Tower(model, inputs["pixel_values"])
    weights = tower.class_attention() * tower.heads  # summed over heads
    picks = [definition(f, w, 18, alpha) for f, w in zip(tower.features, weights)]
    for keep in (0.1, 0.25, 0.5):
        budget = create("scope", keep=keep).budget(TOKENS)
        got = kept_by("scope", model, inputs, keep=keep, alpha=alpha)
        assert got == [sorted(own[:budget]) for own in picks]


def test_a_permutation_of_the_tokens_permutes_the_choice():
    pruner = create("scope")
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 20, 8, generator=generator)
    weights = torch.rand(1, 20, generator=generator)
    order = torch.randperm(20, generator=generator)
    whole = pruner.rule([features, weights], quota=9)
    turned = pruner.rule([features[:, order], weights[:, order]], quota=9)
    assert torch.equal(order[turned[0]], whole[0])


def test_zero_attention_ranks_by_index_and_copies_add_nothing():
    pruner = create("scope")
    features = torch.eye(4).repeat(2, 1)[None]
    assert pruner.rule([features, torch.zeros(1, 8)], quota=3).tolist() == [[0, 1, 2]]
    weights = torch.ones(1, 8)
    weights[0, 4:] = 0.5
    assert pruner.rule([features, weights], quota=4).sort().values.tolist() == [[0, 1, 2, 3]]
