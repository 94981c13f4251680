"""PPT: prune or pool inside the tower, by image."""

import pytest
import torch

from lib.merging import merge
from lib.pruning import create
from lib.pruning.engine.vision import record_of
from lib.pruning.ppt import PPT, spread
from tests.pruning.methods.reference import Tower, kept_by
from tests.tiny import TOKENS, one, ragged, tiny_llava, tiny_llava_next


def run(model, pixels, pruner):
    """The tower's states under the pruner, and what they stand for."""
    with pruner(model):
        out = model.model.get_image_features(pixels, output_hidden_states=True)
        return out.hidden_states[-2], record_of(out).extra["ppt"]


def scores_of(tower, block, row):
    """Significance of the patches, in plain loops."""
    attention = tower.attention(block)[row, :, 0]  # (heads, keys)
    values = tower.made(block, "v")[row]
    raw = [
        sum(attention[h, j].item() for h in range(tower.heads)) * values[j].norm().item()
        for j in range(1, len(values))
    ]
    return torch.tensor(raw, dtype=torch.float64) / sum(raw)


def test_one_block_of_pruning_deletes_the_lowest_scores(model):
    """threshold 0: every image is pruned."""
    inputs = ragged()
    tower = Tower(model, inputs["pixel_values"])
    _, state = run(model, inputs["pixel_values"], PPT(keep=0.5, threshold=0, blocks=(1,)))
    for row in range(4):
        scores = scores_of(tower, 1, row)
        stay = sorted(sorted(range(TOKENS), key=lambda j: -scores[j].item())[:18])
        assert state.positions[row].tolist() == [0, *(j + 1 for j in stay)]
        assert state.sizes[row].eq(1).all()


def test_one_block_of_pooling_is_bipartite_matching_of_mean_keys(model):
    inputs = ragged()
    tower = Tower(model, inputs["pixel_values"])
    _, state = run(model, inputs["pixel_values"], PPT(keep=0.5, threshold=1e9, blocks=(1,)))
    metric = tower.made(1, "k").unflatten(-1, (tower.heads, -1)).mean(2)
    first = torch.arange(TOKENS + 1).expand(4, -1)
    wanted = merge(tower.hidden[1], metric, torch.ones(4, TOKENS + 1), first, 18)
    assert torch.equal(state.positions, wanted.positions)
    assert torch.equal(state.sizes, wanted.sizes)


def test_each_image_takes_its_own_branch(model):
    inputs = ragged()
    tower = Tower(model, inputs["pixel_values"])
    spreads = [spread(scores_of(tower, 1, row)).item() for row in range(4)]
    threshold = sum(sorted(spreads)[1:3]) / 2  # two images on either side
    _, state = run(
        model, inputs["pixel_values"], PPT(keep=0.5, threshold=threshold, blocks=(1,))
    )  # fmt: skip
    pooled = [bool((sizes > 1).any()) for sizes in state.sizes]
    assert pooled == [one < threshold for one in spreads]
    kept = kept_by("ppt", model, inputs, threshold=threshold, blocks=(1,))
    for row in range(4):
        alone = {**one(), "pixel_values": inputs["pixel_values"][row : row + 1]}
        assert kept_by("ppt", model, alone, threshold=threshold, blocks=(1,)) == [kept[row]]


def test_the_decision_does_not_depend_on_how_many_tokens_there_are():
    """The published threshold of the variance alone would; see the docstring."""
    scores = torch.rand(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = scores / scores.sum()
    double = scores.repeat_interleave(2) / 2
    # the unbiased variance of 20 and of 40 differ by their own factors
    assert spread(double).item() == pytest.approx(spread(scores).item() * (19 / 20) / (39 / 40))
    assert PPT().threshold == pytest.approx(2.69, abs=0.01)


def test_later_scores_see_sizes(model):
    """Proportional attention: the logarithm of the size is part of what is ranked."""
    pruner = create("ppt")
    pruner.heads = 2
    generator = torch.Generator().manual_seed(0)
    made = {name: torch.randn(1, 6, 8, generator=generator) for name in "qkv"}
    sizes = torch.tensor([[1.0, 1, 2, 1, 3, 1]])
    q, k = (made[n].double().unflatten(-1, (2, 4)) for n in "qk")
    raw = torch.zeros(6, dtype=torch.float64)
    for head in range(2):
        logits = k[0, :, head] @ q[0, 0, head] / 2 + sizes[0].double().log()
        raw += torch.softmax(logits, 0)
    raw = raw * made["v"][0].double().norm(dim=-1)
    wanted = raw[1:] / raw[1:].sum()
    torch.testing.assert_close(pruner.scores(made, sizes)[0].double(), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("keep", [0.15, 0.5, 0.97])
def test_counts_are_exact_and_in_raster_order(model, keep):
    budget = create("ppt", keep=keep).budget(TOKENS)
    for own in kept_by("ppt", model, ragged(), keep=keep):
        assert len(own) == budget and own == sorted(own)


def test_blocks_are_the_published_quarters_or_as_many_as_it_takes():
    from lib.pruning.ppt import _places

    assert _places(196, 46, 12, 11) == (3, 6, 9)
    assert _places(576, 192, 24, 23) == (6, 12, 18)
    assert len(_places(576, 64, 24, 23)) == 4
    assert len(_places(576, 1, 24, 23)) == 10


def test_what_it_cannot_do_is_refused(model):
    with pytest.raises(ValueError, match="layer is 0, not 2"):
        PPT(layer=2)
    with (
        pytest.raises(TypeError, match="PPT needs vision_feature_select_strategy='default'"),
        PPT()(tiny_llava(strategy="full")),
    ):
        pass
    with pytest.raises(ValueError, match="blocks must be among the 4"), PPT(blocks=(4,))(model):
        pass
    with pytest.raises(TypeError, match="PPT does not support LlavaNext"):
        PPT()(tiny_llava_next())
    with pytest.raises(ValueError, match="threshold must be at least 0"):
        PPT(threshold=-1)


def test_constant_images_pool(model):
    """All scores alike: no spread, nothing stands out."""
    flat = tiny_llava()
    flat.model.vision_tower.embeddings.position_embedding.weight.zero_()
    _, state = run(flat, torch.zeros(1, 3, 42, 42), PPT(keep=0.5, blocks=(0,)))
    assert (state.sizes > 1).any()
