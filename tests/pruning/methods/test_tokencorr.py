"""Token correlation: densities, draws and merging as far as they are described."""

import math

import pytest
import torch

from lib.pruning import create
from lib.pruning.tokencorr import TokenCorr, above_fence, densities, merged
from tests.pruning.methods.reference import Tower, cosines, entering, kept_by
from tests.pruning.test_contract import next_inputs
from tests.tiny import IMAGE, TOKENS, one, ragged


def test_identical_patches_have_no_density_and_orthogonal_keys_all():
    same = torch.ones(1, 20, 20, dtype=torch.bool)
    assert densities(torch.ones(1, 20, 20), same, 0.8, 8).eq(0).all()
    assert densities(torch.eye(20)[None], same, 0.8, 0).eq(1).all()


def test_identical_patches_keep_the_least_and_orthogonal_ones_everything():
    pruner, tiles = TokenCorr(count="adaptive", draw="top"), torch.zeros(1, 20, dtype=torch.int64)
    flat = torch.full((1, 20), 1 / 20)
    _, counts = pruner.chosen(torch.ones(1, 20, 20), flat, flat, tiles, None, 0)
    assert counts.tolist() == [1]
    index, counts = pruner.chosen(torch.eye(20)[None], flat, flat, tiles, None, 0)
    assert counts.tolist() == [20] and index.tolist() == [list(range(20))]


def test_adaptive_counts_follow_the_definition(model):
    inputs = ragged()
    tower = Tower(model, inputs["pixel_values"])
    late, early = tower.class_attention(), tower.class_attention(0)
    wanted = []
    for row in range(4):
        similar = cosines(tower.made(0, "k")[row, 1:])
        alike = [
            sum(similar[i, j].item() > 0.5 for j in range(TOKENS) if j != i) for i in range(TOKENS)
        ]
        number = math.ceil(sum(n <= 2 for n in alike) / TOKENS * TOKENS - 1e-9)
        ranked = sorted(range(TOKENS), key=lambda i: (-early[row, i].item(), i))
        low, high = torch.quantile(late[row], torch.tensor([0.25, 0.75], dtype=torch.float64))
        out = [i for i in range(TOKENS) if late[row, i] > high + 1.5 * (high - low)]
        wanted.append(sorted({*ranked[:number], *out}) or [0])
    got = kept_by(
        "tokencorr", model, inputs, count="adaptive", draw="top", similar=0.5, repeats=2
    )  # fmt: skip
    assert got == wanted and len({len(own) for own in got}) > 1


def test_exact_counts_take_outliers_first_and_then_the_draw():
    pruner = TokenCorr(draw="top")
    late = torch.full((1, 12), 0.01)
    late[0, [2, 7]] = torch.tensor([0.5, 0.9])
    early = torch.arange(12.0)[None] + 1
    tiles = torch.zeros(1, 12, dtype=torch.int64)
    for budget, wanted in ((1, [7]), (2, [2, 7]), (4, [2, 7, 10, 11])):
        index, counts = pruner.chosen(torch.eye(12)[None], late, early, tiles, None, budget)
        assert index.tolist() == [wanted] and counts is None


def test_draws_are_of_the_seed_and_the_image_and_follow_the_attention(model):
    inputs = ragged()
    first = kept_by("tokencorr", model, inputs, keep=0.25)
    assert first == kept_by("tokencorr", model, inputs, keep=0.25)
    assert first != kept_by("tokencorr", model, inputs, keep=0.25, seed=1)
    turned = {**one(), "pixel_values": inputs["pixel_values"][3:]}
    assert kept_by("tokencorr", model, turned, keep=0.25) == first[3:]
    # three draws of four tokens: how often each is left out, by enumeration
    pruner, weights = TokenCorr(), torch.tensor([0.55, 0.25, 0.15, 0.05])
    generator, trials = torch.Generator().manual_seed(0), 4000
    noise = -torch.rand(trials, 4, generator=generator).clamp_min(1e-9).log().neg().log().neg()
    noise = -noise if noise.mean() < 0 else noise  # Gumbel noise has a positive mean
    index, _ = pruner.chosen(
        torch.eye(4).expand(trials, -1, -1), torch.ones(trials, 4), weights.expand(trials, -1),
        torch.zeros(trials, 4, dtype=torch.int64), noise, 1,
    )  # fmt: skip
    share = torch.bincount(index[:, 0], minlength=4) / trials
    assert (share - weights).abs().max() < 0.03


def test_tiles_share_the_draw_by_their_density():
    """The whole image gives its outliers; a dull tile loses to one that is all different."""
    pruner = TokenCorr(draw="top", repeats=1)
    tiles = torch.tensor([[0] * 4 + [1] * 6 + [2] * 6])
    similar = torch.eye(16)
    similar[4:10, 4:10] = 1.0  # tile 1: copies
    flat = torch.full((1, 16), 0.1)
    index, _ = pruner.chosen(similar[None], flat, flat, tiles, None, 6)
    assert index.tolist() == [[10, 11, 12, 13, 14, 15]]


def test_the_fence_is_that_of_the_members():
    scores = torch.tensor([[1.0, 1, 1, 1, 5, 100, 100]])
    members = torch.tensor([[True] * 5 + [False] * 2])
    assert above_fence(scores, members).tolist() == [[False] * 4 + [True, False, False]]


@pytest.mark.parametrize("mean", [False, True])
def test_dropped_tokens_are_added_to_the_most_similar_kept_one(mean):
    generator = torch.Generator().manual_seed(0)
    states, similar = torch.randn(10, 4, generator=generator), cosines(torch.randn(10, 3))
    kept = [1, 4, 8]
    out = {i: [states[i].double(), 1.0] for i in kept}
    for j in set(range(10)) - set(kept):
        to = max(kept, key=lambda i: similar[i, j].item())
        out[to][0] = out[to][0] + similar[to, j] * states[j]
        out[to][1] += similar[to, j].item()
    wanted = torch.stack([s / n if mean else s for s, n in out.values()])
    got = merged(states[None].double(), similar[None], torch.tensor([kept]), None, mean=mean)
    torch.testing.assert_close(got[0], wanted)


def test_without_merging_tokens_stay_as_they_are(model):
    inputs = one()
    seen = entering(model, inputs, create("tokencorr", keep=0.25, merge="none"))
    kept = kept_by("tokencorr", model, inputs, keep=0.25, merge="none")[0]
    features = model.model.get_image_features(inputs["pixel_values"]).pooler_output[0]
    begin = inputs["input_ids"][0].tolist().index(IMAGE)
    torch.testing.assert_close(seen[0, begin : begin + 9], features[kept])


def test_all_tokens_merge_nothing(model):
    """T = N - 1 adds one token to one other; every other token is the model's own."""
    inputs = one()
    seen = entering(model, inputs, create("tokencorr", keep=35 / 36))
    features = model.model.get_image_features(inputs["pixel_values"]).pooler_output[0]
    begin = inputs["input_ids"][0].tolist().index(IMAGE)
    own = seen[0, begin : begin + 35]
    same = ((own[:, None] - features).abs().amax(-1) < 1e-4).any(1)
    assert same.sum() == 34


def test_tiles_of_llava_next(tiled):
    inputs, lengths = next_inputs(tiled)
    for count in ("exact", "adaptive"):
        got = kept_by("tokencorr", tiled, inputs, keep=0.3, count=count)
        for own, length in zip(got, lengths):
            if count == "exact":
                assert len(own) == create("tokencorr", keep=0.3).budget(length)
            assert own


def test_bad_options():
    with pytest.raises(ValueError, match="similar must be a cosine"):
        create("tokencorr", similar=2)
    with pytest.raises(ValueError, match="repeats must be at least 0"):
        create("tokencorr", repeats=-1)
