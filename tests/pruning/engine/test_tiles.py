"""Images, tiles and runs of placeholders: every image is found and none is mixed up."""

import pytest
import torch

from lib.pruning import EntropyPrune, FixedPrune, RandomPrune, create
from tests.pruning import oracle
from tests.pruning.engine.common import GREEDY, kept
from tests.tiny import IMAGE, PATCH, SIDE, batch, one, pixels, prompt, tiny_llava_next


def next_inputs(model, sizes, *, join=False, seed=0):
    """One LLaVA-NeXT prompt; the images with a word between them or, joined, side by side."""
    sizes = torch.tensor(sizes)
    tiles = pixels(3 * len(sizes), seed=seed).view(len(sizes), 3, 3, PATCH * SIDE, PATCH * SIDE)
    lengths = [len(f) for f in model.model.get_image_features(tiles, sizes).pooler_output]
    ids = [1, 5]
    for n in lengths:
        ids += [IMAGE] * n + ([] if join else [7])
    ids = torch.tensor([[*ids, 6]])
    return {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": tiles,
        "image_sizes": sizes,
    }, lengths  # fmt: skip


@pytest.fixture(scope="module")
def next_model():
    with torch.no_grad():
        return tiny_llava_next()


CASES = [("random", {}), ("fastv", {}), ("fastv", {"layer": 0}), ("entropy", {}), ("selection", {})]


@pytest.mark.parametrize("name, options", CASES)
@pytest.mark.parametrize("join", [False, True])
@pytest.mark.parametrize(
    "sizes", [[[42, 84]], [[42, 84]] * 2, [[42, 84], [84, 42]], [[42, 84], [84, 42], [42, 84]]]
)
def test_tiles_equal_sizes_and_adjacent_images(next_model, name, options, sizes, join):
    inputs, lengths = next_inputs(next_model, sizes, join=join)
    with create(name, keep=0.25, **options)(next_model) as pruner:
        next_model(**inputs)
        assert [len(k) for k in pruner.kept] == [pruner.budget(n) for n in lengths]
        sets = kept(pruner)
        if name != "fastv" or options:  # FastV asks the whole prompt
            for i, size in enumerate(sizes):  # each image alone keeps the same
                ids = torch.tensor([[1, 5, *[IMAGE] * lengths[i], 6]])
                next_model(
                    input_ids=ids, pixel_values=inputs["pixel_values"][i : i + 1],
                    image_sizes=torch.tensor([size]),
                )  # fmt: skip
                assert kept(pruner) == sets[i : i + 1]
        if len(sizes) == 1 or hasattr(next_model, "_expand_multimodal_outputs"):
            next_model.generate(**inputs, **GREEDY, num_beams=3)  # as many copies as tiles
            assert kept(pruner) == sets * 3


@pytest.mark.parametrize("layer", [0, 2])
def test_tiles_in_place_equal_the_oracle(next_model, layer):
    inputs, lengths = next_inputs(next_model, [[42, 84], [84, 42]])
    features = next_model.model.get_image_features(inputs["pixel_values"], inputs["image_sizes"])
    masks = [torch.rand(n) < 0.4 for n in lengths]
    indices = [mask.nonzero().squeeze(1).tolist() for mask in masks]
    with FixedPrune(indices=indices, layer=layer)(next_model):
        got = next_model(**inputs).logits[:, -1]
    want = oracle.logits(
        next_model, inputs["input_ids"], list(features.pooler_output), masks, layer=layer
    )
    torch.testing.assert_close(got, want[:, -1], atol=1e-5, rtol=1e-5)


def test_separators_stay_only_where_every_patch_does(next_model):
    """A newline is made of no patch: what ranks the tower's states leaves it for the last."""
    inputs, (length,) = next_inputs(next_model, [[42, 84]])
    with EntropyPrune(keep=0.5)(next_model) as pruner:
        next_model(**inputs)
        half = set(kept(pruner)[0])
    with EntropyPrune(keep=(length - 1) / length)(next_model) as pruner:
        next_model(**inputs)
        (left,) = set(range(length)) - set(kept(pruner)[0])
    newlines = {36 + 12 * row + 12 + row for row in range(6)}  # behind a base tile of 36 tokens
    assert not half & newlines and left in newlines


def test_the_prompt_must_match_its_images(model):
    inputs = one()
    inputs["input_ids"][0, 6] = 9  # one placeholder less
    with create("random")(model), pytest.raises(ValueError, match=r"35|35 image tokens"):
        model(**inputs)
    two = batch([prompt(before=2, after=2), prompt(before=2, after=2)], 2)
    row = two["input_ids"]
    row[0, (row[0] == IMAGE).nonzero()[-1]] = 9
    row[1, -1] = IMAGE  # as many in all, but the first image would end in the second row
    with create("random")(model), pytest.raises(ValueError, match="an image lies in one prompt"):
        model(**two)


def test_random_prune_draws_the_same_for_an_image_in_any_batch_of_tiles(next_model):
    inputs, _ = next_inputs(next_model, [[42, 84], [42, 84]])
    with RandomPrune(keep=0.25)(next_model) as pruner:
        next_model(**inputs)
        assert kept(pruner)[0] != kept(pruner)[1]
