"""The static decoder yields what `generate` yields, for every method and any batch."""

import pytest
import torch

from lib.decoding import StaticDecoder
from lib.pruning import FixedPrune, available, create
from tests.tiny import batch, one, prompt, ragged, tiny_llava


@pytest.fixture(scope="module")
def model():
    return tiny_llava()


@pytest.mark.parametrize("name", [None, *available(), "mask", "adaptive"])
@pytest.mark.parametrize("make", [one, ragged])
def test_same_tokens_as_generate(model, name, make):
    inputs, options = make(), {"max_new_tokens": 12}
    pruner = {
        "mask": lambda: create("fastv", mode="mask"),
        "adaptive": lambda: create("entropy", count="adaptive"),
        None: lambda: FixedPrune(indices=[range(36)] * inputs["pixel_values"].shape[0]),
    }.get(name, lambda: create(name))()
    decoder = StaticDecoder(model)
    with pruner(model):
        expected = model.generate(**inputs, do_sample=False, **options)
        assert torch.equal(decoder.generate(**inputs, **options), expected)


def test_without_a_pruner_and_with_reused_buffers(model):
    decoder = StaticDecoder(model)
    for before in (3, 4, 5):  # lengths of one bucket share their buffers
        inputs = batch([prompt(before=before, after=4, seed=s) for s in range(2)], 2, seed=before)
        expected = model.generate(**inputs, do_sample=False, max_new_tokens=7)
        assert torch.equal(decoder.generate(**inputs, max_new_tokens=7), expected)
        assert len(decoder._buffers) == 1
    (buffers,) = decoder._buffers.values()
    decoder.generate(**inputs, max_new_tokens=7)
    assert next(iter(decoder._buffers.values())) is buffers


def test_layers_keep_their_own_lengths(model):
    decoder = StaticDecoder(tiny_llava(), compiled=False)
    inputs = one()
    with create("random", keep=0.25, layer=2)(decoder.model):
        decoder.generate(**inputs, max_new_tokens=60)
    (buffers,) = decoder._buffers.values()
    capacities = [slot.keys.shape[2] for slot in buffers.slots]
    assert capacities == [128, 128, 128, 128, 128] or capacities[0] > capacities[-1]
    assert buffers.group_of == [0, 0, 1, 1, 1]
    lengths = [int(p) for p in buffers.places]
    assert lengths[0] - lengths[1] == 36 - 9


@pytest.mark.parametrize("check_every", [1, 5, 16])
def test_stops_and_pads_like_generate(model, check_every):
    inputs = ragged()
    free = model.generate(**inputs, do_sample=False, max_new_tokens=15)[:, -15:]
    stops = [int(free[0, 4]), int(free[1, 9]), int(free[2, 2])]
    options = {"max_new_tokens": 15, "eos_token_id": stops, "pad_token_id": 0}
    expected = model.generate(**inputs, do_sample=False, **options)
    out = StaticDecoder(model).generate(**inputs, **options, check_every=check_every)
    assert torch.equal(out, expected)


def test_one_token_and_bad_options(model):
    decoder = StaticDecoder(model)
    expected = model.generate(**one(), do_sample=False, max_new_tokens=1)
    assert torch.equal(decoder.generate(**one(), max_new_tokens=1), expected)
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got 0"):
        decoder.generate(**one(), max_new_tokens=0)
    with pytest.raises(ValueError, match="greedy; num_beams is not supported"):
        decoder.generate(**one(), num_beams=3)
