"""VisionZip: dominant tokens, and contextual ones by merging."""

import pytest
import torch

from lib.pruning import create
from lib.pruning.visionzip import contexts, merged
from tests.pruning.methods.reference import Tower, cosines, entering, kept_by, tiny_siglip, top
from tests.pruning.test_contract import next_inputs
from tests.tiny import IMAGE, TOKENS, one, ragged


def definition(tower, row, dominant, few, extra):
    """Indices and features [class token, dominant, contextual] of one image, in plain loops."""
    block = tower.last - 1
    weights = tower.attention(block)[row, :, 0, 1:].sum(0)
    keys = tower.made(block, "k")[row, 1:].unflatten(-1, (tower.heads, -1)).mean(1)
    states, similar = tower.features[row], cosines(keys)
    best = top(weights, dominant)
    rest = [i for i in range(len(states)) if i not in best]
    stride = len(rest) // few
    targets = rest[::stride][:few]
    gone = [i for i in rest if i not in targets]
    given = {t: [] for t in targets}
    for i in gone:
        given[max(targets, key=lambda t: similar[i, t].item())].append(i)
    out = [tower.hidden[tower.last][row, 0]] if extra else []
    out += [states[i] for i in best]
    for t in targets:
        mean = sum(states[i] for i in given[t]) / max(1, len(given[t]))
        out.append(states[t] + mean)
    return gone[:extra] + best + targets, torch.stack(out)


@pytest.mark.parametrize("keep", [0.25, 0.5, 0.75])
def test_follows_its_definition(model, keep):
    inputs = one()
    pruner = create("visionzip", keep=keep)
    budget = pruner.budget(TOKENS)
    few = int(budget * 10 / 64 + 0.5)
    tower = Tower(model, inputs["pixel_values"])
    index, states = definition(tower, 0, budget - few - 1, few, 1)
    seen = entering(model, inputs, pruner)
    assert kept_by("visionzip", model, inputs, keep=keep) == [sorted(index)]
    begin = inputs["input_ids"][0].tolist().index(IMAGE)
    torch.testing.assert_close(
        seen[0, begin : begin + budget], tower.projector(states).float(), atol=1e-4, rtol=1e-4
    )


def test_published_budgets():
    for budget, few in ((64, 10), (128, 20), (192, 30)):
        assert int(budget * create("visionzip").contextual + 0.5) == few


def test_a_target_is_itself_plus_the_mean_of_what_it_was_given():
    """The algebra alone: two targets, one of which nobody goes to."""
    weights = torch.tensor([[9.0, 1, 1, 1, 1]])
    metric = torch.tensor([[[1.0, 0], [1, 0], [1, 0.1], [0, 1], [1, 0.2]]])
    states = torch.arange(5.0)[None, :, None] + 10
    groups = contexts(weights, metric, 1, 2)
    assert groups.dominant.tolist() == [[0]]
    assert groups.targets.tolist() == [[1, 3]] and groups.others.tolist() == [[2, 4]]
    assert merged(states, groups).flatten().tolist() == [11 + (12 + 14) / 2, 13.0]


def test_identical_tokens_double(model):
    """A sum of a target and a mean of its copies, not an average."""
    weights, states = torch.ones(1, 9), torch.full((1, 9, 3), 2.0)
    groups = contexts(weights, states, 3, 2)
    assert (merged(states, groups)[0, 0] == 4).all()


def test_zero_attention_is_ranked_by_index():
    groups = contexts(torch.zeros(1, 6), torch.eye(6)[None], 2, 2)
    assert groups.dominant.tolist() == [[0, 1]]


@pytest.mark.parametrize("keep", [1 / 36, 2 / 36, 35 / 36])
def test_the_smallest_and_largest_budgets(model, keep):
    pruner = create("visionzip", keep=keep)
    budget = pruner.budget(TOKENS)
    assert [len(own) for own in kept_by("visionzip", model, ragged(), keep=keep)] == [budget] * 4
    if budget == 1:  # the class token alone, in the place of the first patch
        seen = entering(model, one(), create("visionzip", keep=keep))
        tower = Tower(model, one()["pixel_values"])
        wanted = tower.projector(tower.hidden[tower.last][0, 0]).float()
        begin = one()["input_ids"][0].tolist().index(IMAGE)
        torch.testing.assert_close(seen[0, begin], wanted, atol=1e-4, rtol=1e-4)


def test_order_is_published_or_raster(model):
    inputs = one()
    published = entering(model, inputs, create("visionzip", keep=0.25))
    raster = entering(model, inputs, create("visionzip", keep=0.25, order="raster"))
    assert published.shape == raster.shape
    rows = {tuple(row.tolist()) for row in published[0]}
    assert rows == {tuple(row.tolist()) for row in raster[0]}
    assert not torch.equal(published, raster)
    with pytest.raises(ValueError, match="changes the order"):
        create("visionzip", mode="mask")


def test_without_a_class_token_none_is_kept():
    model, inputs = tiny_siglip(), one()
    tower = Tower(model, inputs["pixel_values"])
    received = tower.attention(tower.last - 1).mean(2).sum(1)
    kept = kept_by("visionzip", model, inputs, keep=0.25)[0]
    assert len(kept) == 9 and set(top(received[0], 8)) <= set(kept)


def test_tiles_share_evenly_and_their_extras_come_last(tiled):
    inputs, _ = next_inputs(tiled)
    one_image = {k: v[:1] for k, v in inputs.items()}
    pruner = create("visionzip", keep=0.25)
    seen = entering(tiled, one_image, pruner)
    budget = create("visionzip", keep=0.25).budget(114)
    ids = one_image["input_ids"][0]
    begin = int((ids == IMAGE).long().argmax())
    features = tiled.model.get_image_features(
        one_image["pixel_values"], one_image["image_sizes"]
    ).pooler_output[0]
    own = seen[0, begin : begin + budget]
    same = [bool((row == features).all(-1).any()) for row in own]
    extras = 3 * 1 + sum(int(share * 10 / 64 + 0.5) for share in (10, 10, 9))
    assert same == [True] * (budget - extras) + [False] * extras
    with pytest.raises(ValueError, match="layer is 0, not 2"):
        create("visionzip", layer=2)
