"""PruMerge: outliers of attention, neighbours added to them, one token for the rest."""

import numpy
import pytest
import torch

from lib.pruning import create
from lib.pruning.prumerge import PruMerge, chosen, outliers, summed
from tests.pruning.methods.reference import Tower, cosines, entering, kept_by
from tests.pruning.test_contract import next_inputs
from tests.tiny import IMAGE, TOKENS, one, ragged


def class_row(tower):
    """softmax(q kᵀ / √width) of the last block with all heads as one, class row, patches."""
    block = len(tower.blocks) - 1
    q, k = tower.made(block, "q"), tower.made(block, "k")
    return (q[:, :1] @ k.mT / q.shape[-1] ** 0.5).softmax(-1)[:, 0, 1:], k[:, 1:]


def sums(states, weights, keys, kept, *, extra=True):
    """The published sums, in plain loops."""
    similar, out = cosines(keys), []
    for i in kept:
        others = [j for j in range(len(states)) if j != i]
        near = sorted(others, key=lambda j: (-similar[i, j].item(), j))[:32]
        out.append(states[i] + sum(weights[j] * states[j] for j in near))
    if extra:
        gone = [j for j in range(len(states)) if j not in kept]
        out.append(sum(weights[j] * states[j] for j in gone))
    return torch.stack(out)


def visual(model, inputs, pruner, count):
    begin = inputs["input_ids"][0].tolist().index(IMAGE)
    return entering(model, inputs, pruner)[0, begin : begin + count]


@pytest.mark.parametrize("keep", [0.1, 0.25, 0.6])
def test_exact_counts_follow_the_definition(model, keep):
    inputs = one()
    pruner = create("prumerge", keep=keep)
    budget = pruner.budget(TOKENS)
    tower = Tower(model, inputs["pixel_values"])
    weights, keys = class_row(tower)
    kept = sorted(range(TOKENS), key=lambda i: (-weights[0, i].item(), i))[: budget - 1]
    wanted = tower.projector(sums(tower.features[0], weights[0], keys[0], kept)).float()
    seen = visual(model, inputs, pruner, budget)
    torch.testing.assert_close(seen, wanted, atol=1e-4, rtol=1e-4)
    first = min(set(range(TOKENS)) - set(kept))
    assert kept_by("prumerge", model, inputs, keep=keep) == [sorted([*kept, first])]


def test_where_the_rule_counts_a_piece_has_no_quota(model, tiled):
    quotas = []

    class Noting(PruMerge):
        def pick(self, piece):
            quotas.append(piece.quota)
            return super().pick(piece)

    for kind, inputs in ((model, ragged()), (tiled, next_inputs(tiled)[0])):
        with Noting(count="adaptive")(kind):
            kind(**inputs)
    assert set(quotas) == {0}


def test_adaptive_counts_are_the_outliers_of_the_image_alone(model):
    inputs = ragged()
    weights, _ = class_row(Tower(model, inputs["pixel_values"]))
    counts = []
    for own in weights.numpy():
        low, high = numpy.percentile(own, [25, 75])
        counts.append(int((own > high + 1.5 * (high - low)).sum()) + 1)
    got = kept_by("prumerge", model, inputs, count="adaptive")
    assert [len(own) for own in got] == counts and len(set(counts)) > 1


def test_adaptive_states_are_the_sums_whatever_the_batch(model):
    """Ragged counts: every row is what the image gives alone."""
    inputs = ragged()
    tower = Tower(model, inputs["pixel_values"])
    weights, keys = class_row(tower)
    seen = entering(model, inputs, create("prumerge", count="adaptive"))
    counts = [len(own) for own in kept_by("prumerge", model, inputs, count="adaptive")]
    row, image = 2, 3  # the last row holds the last image alone
    kept = sorted(range(TOKENS), key=lambda i: (-weights[image, i].item(), i))[: counts[3] - 1]
    made = sums(tower.features[image], weights[image], keys[image], kept)
    wanted = tower.projector(made).float()
    ids = inputs["input_ids"][row].tolist()
    behind = len(ids) - 1 - ids[::-1].index(IMAGE)
    end = seen.shape[1] - (len(ids) - 1 - behind)
    torch.testing.assert_close(seen[row, end - counts[3] : end], wanted, atol=1e-4, rtol=1e-4)


def test_plus_adds_every_third_of_a_step():
    weights = torch.full((1, 100), 0.001)
    weights[0, [3, 50, 97]] = torch.tensor([0.3, 0.2, 0.1])
    choice = outliers(weights, plus=True)
    # a fraction of 3 / 100: steps of 33, a third of which is 11
    spaced = [i for i in range(0, 99, 11) if i not in (3, 50, 97)]
    count = int(choice.counts)
    assert choice.index[0, : count - 1].tolist() == [3, 50, 97, *spaced]
    assert choice.rest[0, count - 1] and choice.own[0, : count - 1].all()


def test_more_than_a_third_of_outliers_is_no_crash():
    """The published step is ⌊⌊N / kept⌋ / 3⌋, which becomes zero. Quartiles allow a quarter at
    most, so what reaches that is a small image."""
    for size in (4, 5, 7, 9):
        weights = torch.full((1, size), 1e-3)
        weights[0, 0] = 1.0
        choice = outliers(weights, plus=True)
        assert 1 <= int(choice.counts) <= size
        assert choice.index[0].sort().values.tolist() == list(range(size))
    budget = chosen(torch.rand(1, 9), 8, plus=True)
    assert len(budget.index[0].unique()) == 8


def test_a_constant_image_keeps_the_token_for_the_rest():
    choice = outliers(torch.full((2, 12), 1 / 12))
    assert choice.counts.tolist() == [1, 1] and choice.rest[:, 0].all()
    keys, states = torch.ones(2, 12, 3), torch.rand(2, 12, 4)
    made = summed(states, torch.full((2, 12), 1 / 12), keys, choice)
    torch.testing.assert_close(made[:, 0], states.mean(1))


def test_zero_attention_adds_nothing():
    weights, keys, states = torch.zeros(1, 40), torch.randn(1, 40, 3), torch.rand(1, 40, 4)
    choice = chosen(weights, 5)
    made = summed(states, weights, keys, choice)
    assert choice.index[0].tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(made[0, :4], states[0, :4])
    assert (made[0, 4] == 0).all()


def test_plus_at_an_exact_count_spaces_the_others_evenly():
    weights = torch.zeros(1, 100)
    weights[0, :10] = torch.arange(10, 0, -1.0)
    choice = chosen(weights, 41, plus=True)
    assert choice.index[0, :10].tolist() == list(range(10))
    assert choice.index[0, 10:40].tolist() == [10 + 3 * i + 1 for i in range(30)]
    assert choice.index[0, 40] == 10 and choice.rest[0].tolist() == [False] * 40 + [True]


def test_one_token_is_the_best_one(model):
    weights, _ = class_row(Tower(model, ragged()["pixel_values"]))
    wanted = [[int(own.argmax())] for own in weights]
    assert kept_by("prumerge", model, ragged(), keep=1 / 36) == wanted


@pytest.mark.parametrize("options", [{}, {"plus": True}, {"count": "adaptive", "plus": True}])
def test_modes_agree_in_raster_order(model, options):
    inputs, logits = ragged(), []
    for mode in ("inplace", "mask"):
        with create("prumerge", mode=mode, order="raster", positions="original", **options)(model):
            logits.append(model(**inputs).logits[:, -1])
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)


def test_tiles_are_judged_alone(tiled):
    inputs, _ = next_inputs(tiled)
    got = kept_by("prumerge", tiled, inputs, count="adaptive", plus=True)
    assert all(own for own in got)
    counts = [len(own) for own in kept_by("prumerge", tiled, inputs, keep=0.25)]
    assert counts == [create("prumerge", keep=0.25).budget(n) for n in (114, 120)]
