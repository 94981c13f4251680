"""The static decoder yields what `generate` yields, for every method and any batch."""

from contextlib import nullcontext

import pytest
import torch

from lib.decoding import StaticDecoder
from lib.decoding.prefill import CapturedPrefill
from lib.pruning import FixedPrune, available, create
from lib.pruning.engine import beside
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
    shared = None
    for before in (3, 4, 5):  # lengths of one bucket share their buffers
        inputs = batch([prompt(before=before, after=4, seed=s) for s in range(2)], 2, seed=before)
        expected = model.generate(**inputs, do_sample=False, max_new_tokens=7)
        assert torch.equal(decoder.generate(**inputs, max_new_tokens=7), expected)
        buffers = decoder._pool._buffers
        assert before == 3 or buffers is shared
        shared = buffers
    decoder.generate(**inputs, max_new_tokens=7)
    assert decoder._pool._buffers is buffers
    decoder.clear()
    assert decoder._pool._buffers is None
    assert torch.equal(decoder.generate(**inputs, max_new_tokens=7), expected)


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("name", [None, "random", "fastv"])
def test_the_written_out_step_yields_the_same_tokens(model, monkeypatch, name, products):
    monkeypatch.setattr(StaticDecoder, "_by_products", lambda _: products)
    inputs, decoder = ragged(), StaticDecoder(model, compiled=True)
    pruner = create(name) if name else FixedPrune(indices=[range(36)] * len(inputs["pixel_values"]))
    with pruner(model):
        expected = model.generate(**inputs, do_sample=False, max_new_tokens=12)
        assert torch.equal(decoder.generate(**inputs, max_new_tokens=12), expected)


def test_the_written_out_step_is_for_llama_alone():
    model = tiny_llava()
    model.model.language_model.layers[1].mlp.act_fn = torch.nn.GELU()
    with pytest.raises(TypeError, match="written for Llama's layers"):
        StaticDecoder(model, compiled=True)


def test_layers_keep_their_own_lengths(model):
    decoder = StaticDecoder(tiny_llava(), compiled=False)
    inputs = one()
    with create("random", keep=0.25, layer=2)(decoder.model):
        decoder.generate(**inputs, max_new_tokens=60)
    buffers = decoder._pool._buffers
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
    with pytest.raises(ValueError, match="max_new_tokens"):
        decoder.generate(**one(), max_new_tokens=0)
    with pytest.raises(ValueError, match="num_beams=3 is not supported"):
        decoder.generate(**one(), num_beams=3)


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("each", [1, 2])
def test_known_image_counts_find_the_same_tokens(model, name, each):
    prompts = [prompt(before=3, images=each, after=4, seed=s) for s in range(2)]
    inputs = batch([prompts[0], prompts[1][2:]], 2 * each)
    logits, kept = [], []
    for known in (None, each):
        with create(name)(model) as pruner:
            pruner._current.images_each = known
            logits.append(model(**inputs, logits_to_keep=1).logits)
            kept.append(pruner.kept)
    assert torch.equal(*logits)
    assert len(kept[0]) == len(kept[1]) == 2 * each
    assert all(torch.equal(a, b) for a, b in zip(*kept))


class Pretended(StaticDecoder):
    """Decides on a CPU as on a GPU what to capture; a replay runs the prefill again."""

    _captures = ("cpu",)
    made = replayed = 0

    def _captured(self, given, *, images_each):
        inputs = {name: tensor.clone() for name, tensor in given.items()}
        pruner, decoder = self._pruner, self
        if pruner is not None and pruner.image_keys is not None:
            inputs["image_keys"] = pruner.image_keys.clone()
        output = list(self._first(**given))
        self.made += 1

        class Graph:
            def replay(self):
                decoder.replayed += 1
                now = {k: v for k, v in inputs.items() if k != "image_keys"}
                if pruner is not None:
                    pruner._current.images_each = images_each
                output[:] = decoder._first(**now)
                if pruner is not None:
                    pruner._current.images_each = None

        kept = None if pruner is None else pruner._current.kept
        return CapturedPrefill(Graph(), inputs, output, kept)


@pytest.mark.parametrize("name", [None, "random", "fastv", "entropy", "tome"])
def test_a_shape_that_comes_again_is_captured_once_and_replayed(model, name):
    decoder = Pretended(model)
    with create(name)(model) if name else nullcontext():
        for seed in range(4):
            inputs = batch(
                [prompt(before=3, after=4, seed=seed + s) for s in range(2)], 2, seed=seed
            )
            expected = model.generate(**inputs, do_sample=False, max_new_tokens=4)
            assert torch.equal(decoder.generate(**inputs, max_new_tokens=4), expected)
        assert (decoder.made, decoder.replayed) == (1, 3)
        other = one()
        for _ in range(2):  # another shape takes its place
            decoder.generate(**other, max_new_tokens=2)
        assert (decoder.made, decoder.replayed) == (2, 4) and len(decoder._prefills) == 1


def test_other_options_and_new_keys_are_not_mixed_up(model):
    decoder, inputs = Pretended(model), one()
    with create("random", keep=0.5)(model) as pruner:
        for key in (None, None, 3, 3, 4):
            pruner.image_keys = None if key is None else torch.tensor([key])
            expected = model.generate(**inputs, do_sample=False, max_new_tokens=3)
            assert torch.equal(decoder.generate(**inputs, max_new_tokens=3), expected)
        assert decoder.made == 2
    with create("random", keep=0.25)(model):  # another rate of the same method
        assert torch.equal(
            decoder.generate(**inputs, max_new_tokens=3),
            model.generate(**inputs, do_sample=False, max_new_tokens=3),
        )
        assert decoder.made == 2 and len(decoder._prefills) == 0


def test_what_depends_on_the_data_is_not_captured(model):
    decoder = Pretended(model)
    with FixedPrune(indices=[range(9)])(model):
        for _ in range(3):
            decoder.generate(**one(), max_new_tokens=2)
    # rows with different numbers of images
    several = batch([prompt(before=2, images=n, after=3) for n in (1, 2)], 3)
    for _ in range(3):
        decoder.generate(**several, max_new_tokens=2)
    plain = Pretended(model, capture_prefill=False)
    for _ in range(3):
        plain.generate(**one(), max_new_tokens=2)
    assert decoder.made == plain.made == 0


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def on_gpu(inputs):
    return {name: tensor.cuda() for name, tensor in inputs.items()}


@needs_gpu
@pytest.mark.parametrize("name", [None, *available()])
@pytest.mark.parametrize("padded", [False, True])
def test_a_captured_prefill_yields_the_same_tokens(name, padded):
    model = tiny_llava().cuda()
    decoder = StaticDecoder(model)
    pruner = FixedPrune(indices=[range(36)] * 2) if name is None else create(name)
    for seed in range(4):
        first, second = (prompt(before=3, after=4, seed=s + seed) for s in range(2))
        inputs = on_gpu(batch([first, second[2 * padded :]], 2, seed=seed))
        with pruner(model):
            expected = model.generate(**inputs, do_sample=False, max_new_tokens=9)
            kept = pruner.kept
            assert torch.equal(decoder.generate(**inputs, max_new_tokens=9), expected)
            assert all(torch.equal(a, b) for a, b in zip(kept, pruner.kept))
            captured = name is not None and pruner.captures
            assert len(decoder._prefills) == (seed > 0 and captured)
            assert None not in decoder._prefills.values(), "refused by the device"


@needs_gpu
@pytest.mark.parametrize("name", ["entropy", "selection", "scope", "vispruner"])
@pytest.mark.parametrize("padded", [False, True])
def test_a_choice_made_beside_the_first_layers_is_the_same(name, padded, monkeypatch):
    spare, spared = beside.spare, []
    monkeypatch.setattr(beside, "spare", lambda cores: spared.append(cores) or spare(cores))
    model = tiny_llava().cuda()
    decoder = StaticDecoder(model, capture_prefill="at once")
    with create(name, layer=2)(model) as pruner:
        for seed in range(4):
            first, second = (prompt(before=3, after=4, seed=s + seed) for s in range(2))
            inputs = on_gpu(batch([first, second[2 * padded :]], 2, seed=seed))
            expected = model.generate(**inputs, do_sample=False, max_new_tokens=9)
            kept = pruner.kept
            assert torch.equal(decoder.generate(**inputs, max_new_tokens=9), expected)
            assert all(torch.equal(a, b) for a, b in zip(kept, pruner.kept))
    cores = beside._SPARED_LONG if name == "selection" else beside.SPARED
    assert spared == [cores, 0] and decoder.captured


@needs_gpu
def test_a_captured_prefill_follows_the_keys_of_the_images():
    model = tiny_llava().cuda()
    decoder, inputs = StaticDecoder(model), on_gpu(one())
    with create("random", keep=0.25)(model) as pruner:
        for key in range(4):
            pruner.image_keys = torch.tensor([key])
            expected = model.generate(**inputs, do_sample=False, max_new_tokens=5)
            kept = pruner.kept
            assert torch.equal(decoder.generate(**inputs, max_new_tokens=5), expected)
            assert torch.equal(kept[0], pruner.kept[0])
            assert int(pruner.image_keys) == key
    assert len(decoder._prefills) == 1


class Refused(StaticDecoder):
    """A device that refuses every capture."""

    _captures = ("cpu",)
    tried = 0

    def _captured(self, given, *, images_each):
        self.tried += 1
        raise RuntimeError("operation not permitted when stream is capturing")


def test_what_cannot_be_captured_runs_plainly():
    model = tiny_llava()
    decoder, inputs = Refused(model), one()
    with create("cdpruner", keep=0.25)(model):
        want = model.generate(**inputs, do_sample=False, max_new_tokens=4)
        for _ in range(4):
            assert torch.equal(decoder.generate(**inputs, max_new_tokens=4), want)
    assert decoder.tried == 1
    at_once = Refused(model, capture_prefill="at once")
    with pytest.raises(ValueError, match=r"the model cannot be captured .*capture_prefill=True"):
        at_once.generate(**inputs, max_new_tokens=4)
