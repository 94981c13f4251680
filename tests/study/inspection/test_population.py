"""Measures of one reading against their definitions, written out once more."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from lib.entropy import gram, leave_one_out
from lib.study.inspection import population
from lib.study.inspection.population import Numbers
from lib.study.inspection.reading import Reading


def reading(seed=0):
    """3 + 2 layers, 16 patches after 2 positions, 3 more in the prompt and 2 words of answer."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(shape, generator=generator)

    rows = drawn(2, 3, 23).softmax(-1)
    return Reading(
        vision=drawn(3, 16, 6), tower=drawn(2, 17, 17).softmax(-1), language=drawn(2, 23, 8),
        rows=rows, spots=torch.arange(2, 18), length=21,
    )  # fmt: skip


def test_attention_is_shared_between_the_parts():
    one = reading()
    found = population.attention(one)
    mean = one.rows.double().mean(1)
    assert found["image share"] == pytest.approx(mean[:, 2:18].sum(1).tolist())
    assert found["system share"] == pytest.approx(mean[:, :2].sum(1).tolist())
    assert found["first token's share"] == pytest.approx(mean[:, 0].tolist())
    ratio = (mean[:, 2:18].mean(1) / mean[:, :2].mean(1)).tolist()
    assert found["image / system"] == pytest.approx(ratio)
    last = one.rows[:, 0, 2:18].sum(1).tolist()
    assert found["image share of the last prompt token"] == pytest.approx(last, rel=1e-5)
    norms = one.language[:, :21].norm(dim=-1).numpy()
    want = norms[:, 0] / np.median(norms, axis=1)
    assert found["first token's norm over the median"] == pytest.approx(want.tolist(), rel=1e-5)


def test_a_criterion_that_ranks_objects_first_finds_them_all():
    objects = np.arange(16) < 4
    scores = torch.linspace(1, 0, 16)
    found = population.criteria(reading(), scores, objects)
    assert found["objects found by entropy"] == 1
    looked = reading().rows[1, 0, 2:18].numpy()
    pairs = [a > b for a in looked[objects] for b in looked[~objects]]
    assert found["objects found by attention"] == pytest.approx(np.mean(pairs))
    assert population.criteria(reading(), scores, None) == {}
    assert population.criteria(reading(), scores, np.zeros(16, bool)) == {}


def test_the_choice_is_that_of_algorithm_1():
    one, numbers = reading(), Numbers.for_tokens(16)
    scores = leave_one_out(one.vision[-1])
    found, labels = population.choice(one, scores, (4, 4), numbers)
    counts = np.bincount(labels, minlength=8)
    assert found["clusters of one token"] == (counts == 1).sum()
    assert found["kept tokens"] <= numbers.cores * numbers.each
    assert found["negative scores of tokens"] == pytest.approx((scores < 0).float().mean().item())
    tokens = one.vision[-1].double().numpy()
    inside = sum(((tokens[labels == m] - tokens[labels == m].mean(0)) ** 2).sum() for m in range(8))
    whole = ((tokens - tokens.mean(0)) ** 2).sum()
    assert found["spread within clusters"] == pytest.approx(inside / whole, rel=1e-4)
    assert found["coverage, all"] == pytest.approx(1, abs=1e-5)


def test_rollouts_are_products_and_their_agreement_a_rank_correlation():
    one = reading()
    scores = leave_one_out(one.vision[-1])
    found = population.rollouts(one, scores, (1, 2))
    product = np.eye(17)
    for block in one.tower.double().numpy():
        mixed = block + np.eye(17)
        product = mixed / mixed.sum(1, keepdims=True) @ product
    want = spearmanr(scores, product[0, 1:]).statistic
    assert found["leave-one-out ~ attention rollout"] == pytest.approx(want)
    assert len(found) == 10


def test_stages_hold_the_unit_centroids_of_both_networks():
    one = reading()
    labels = torch.arange(16) % 4
    grams = population.stages(one, labels, 4)
    assert grams.shape == (5, 4, 4)
    means = torch.stack([one.language[1, 2:18][labels == m].mean(0) for m in range(4)])
    torch.testing.assert_close(grams[4], gram(means), atol=1e-5, rtol=0)


def test_an_inversion_is_counted_from_the_first_negative_correlation():
    curve = torch.tensor([[0.9, 0.9], [0.1, 0.5], [-0.2, 0.3]])
    first = population._first_below(curve)
    assert first[0] == 3 and np.isnan(first[1])
    tokens = torch.randn(16, 64, generator=torch.Generator().manual_seed(1)) + 0.8
    grams = gram(tokens).expand(3, 2, 16, 16)
    found = population.inversions(grams, 1, 2)
    assert found["copies until inverted, literal"][0] == found["copies until inverted, literal"][1]
    assert np.shape(found["curve over copies, scaled"]) == (2, population.COPIES)
    assert np.isnan(found["copies until inverted, scaled"]).all()
