"""Attention rollout: against the product of whole matrices."""

import pytest
import torch

from lib.pruning import create
from lib.rollout import attention_step
from tests.pruning.methods.reference import Tower, kept_by, tiny_siglip, top
from tests.tiny import TOKENS, one, ragged


def product(tower):
    """The rollout of the blocks that the features come from, `(rows, tokens, tokens)`."""
    rows, length = tower.hidden[0].shape[:2]
    whole = torch.eye(length, dtype=torch.float64).expand(rows, -1, -1)
    for block in range(tower.last):
        mixed = tower.attention(block).mean(1) / 2 + torch.eye(length, dtype=torch.float64) / 2
        mixed = mixed / mixed.sum(-1, keepdim=True)
        whole = mixed @ whole
    return whole


@pytest.mark.parametrize("keep", [0.1, 0.5])
def test_ranks_by_the_class_tokens_row_of_the_product(model, keep):
    inputs = ragged()
    scores = product(Tower(model, inputs["pixel_values"]))[:, 0, 1:]
    budget = create("rollout", keep=keep).budget(TOKENS)
    assert kept_by("rollout", model, inputs, keep=keep) == [top(own, budget) for own in scores]


def test_without_a_class_token_the_mean_of_all_rows_ranks():
    model, inputs = tiny_siglip(), one()
    scores = product(Tower(model, inputs["pixel_values"])).mean(1)
    assert kept_by("rollout", model, inputs, keep=0.25) == [top(scores[0], 9)]


def test_rows_sum_to_one_and_projections_are_not_kept(model):
    from lib.pruning.engine.vision import record_of

    with create("rollout")(model):
        record = record_of(model.model.get_image_features(one()["pixel_values"]))
    assert not record.projections
    torch.testing.assert_close(record.extra["rollout"].sum(-1), torch.ones(1, TOKENS + 1))


def test_attention_that_mixes_nothing_leaves_the_identity():
    eye = torch.eye(3)
    assert torch.equal(attention_step(attention_step(None, eye), eye), eye)
