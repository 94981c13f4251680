"""The contract on every family: every method once, two methods and fixed sets in full."""

import functools

import pytest
import torch

from lib.pruning import FixedPrune, PrunedCache, available, create
from lib.pruning.families import resolve, supported
from lib.pruning.support import refusal
from tests.pruning.families import oracle
from tests.pruning.families.tiny import ALL, END, IMAGE, MORE, START, VIDEO, Picture

pytestmark = pytest.mark.slow

#: a placeholder among the answers would ask for another image where nothing is cached
GREEDY = {"do_sample": False, "max_new_tokens": 4, "suppress_tokens": [IMAGE, VIDEO, START, END]}
#: the prompt's token, that of a step on the pruned cache, and that of a step on what one has added
SHORT = GREEDY | {"max_new_tokens": 3}
CLOSE = {"atol": 2e-5, "rtol": 2e-5}
#: the methods of the full contract: one looks at the language model, one at the tower
FULL = {"fastv": {"keep": 0.4, "layer": 2}, "entropy": {"keep": 0.4, "layer": 1}}

every_family = pytest.mark.parametrize("name", [*ALL, *MORE])
full = pytest.mark.parametrize("method", FULL)
both_modes = pytest.mark.parametrize("mode", ["inplace", "mask"])
with_video = pytest.mark.parametrize("name", [name for name, tiny in ALL.items() if tiny.video])


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def models():
    made = {}

    def model(name):
        if name not in made:
            made[name] = family(name).model()
        return made[name]

    return model


@pytest.fixture(scope="module")
def unpruned(models):
    """Logits of a family's prompts."""

    @functools.cache
    def logits(name, kind):
        return models(name)(**family(name).inputs(kind)).logits

    return logits


def family(name):
    return (ALL | MORE)[name]


def kept(pruner):
    return [k.tolist() for k in pruner.kept]


def fixed_sets(lengths):
    """Some of every image, another number of each."""
    generator = torch.Generator().manual_seed(7)
    masks = [torch.rand(n, generator=generator) < 0.45 for n in lengths]
    for mask in masks:
        mask[0] = True
    return masks


def compare_with_oracle(model, inputs, masks, layer, got):
    """In-place logits of all survivors."""
    want = oracle.logits(model, inputs, masks, layer)
    stay = oracle.survivors(inputs, masks)
    for row in range(len(want)):
        own = want[row, stay[row]]
        torch.testing.assert_close(got[row, -len(own) :], own, **CLOSE)


def test_every_registered_family_is_tested():
    kinds = {family(name).model().config.model_type for name in [*ALL, *MORE]}
    assert kinds == set(supported())


# ---- every method on every family ---------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("method", available())
def test_every_method_runs_or_is_refused_by_name(models, unpruned, name, method):
    model, tiny = models(name), family(name)
    kind = "one" if name == "llava" else "ragged"
    inputs = tiny.inputs(kind)
    # what closes positions up is refused where that means nothing, but runs without
    options = {} if resolve(model).plain_positions else {"positions": "original"}
    refused = refusal(method, model)
    if refused is not None:
        assert type(create(method)).__name__ in refused
    if refused is not None and (not options or refusal(method, model, **options) is not None):
        return
    with create(method, keep=1.0, **options)(model):
        assert torch.equal(model(**inputs).logits, unpruned(name, kind))
    with create(method, **options)(model) as pruner:
        got = model(**inputs).logits
        masks = pruner.kept_masks
        lengths = [len(mask) for mask in masks]
        assert lengths == tiny.lengths(kind)
        out = model.generate(**inputs, **SHORT)
        assert len(out) == len(inputs["input_ids"])
        if pruner.exact and len(pruner.stages()) == 1:
            assert [int(mask.sum()) for mask in masks] == [pruner.budget(n) for n in lengths]
        layer = pruner.stages()[0]
    changes = pruner.merges or pruner.reorders or pruner.positions == "contiguous"
    if not changes and len(pruner.stages()) == 1:
        compare_with_oracle(model, inputs, masks, layer, got)


# ---- fixed sets: the engine and the adapters ----------------------------------------------------


@every_family
@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_in_place_mask_and_oracle_agree(models, name, layer):
    """At any layer: in front of, between and behind what DeepStack adds."""
    model, tiny = models(name), family(name)
    inputs = tiny.inputs("ragged")
    masks = fixed_sets(tiny.lengths("ragged"))
    indices = [mask.nonzero().squeeze(1).tolist() for mask in masks]
    with FixedPrune(indices=indices, layer=layer)(model) as pruner:
        got = model(**inputs).logits
        assert kept(pruner) == indices
        tokens = model.generate(**inputs, **GREEDY)
    compare_with_oracle(model, inputs, masks, layer, got)
    with FixedPrune(indices=indices, layer=layer, mode="mask")(model):
        shown = model(**inputs).logits
        assert torch.equal(model.generate(**inputs, **GREEDY), tokens)
    stay = oracle.survivors(inputs, masks)
    for row in range(len(stay)):
        own = shown[row, stay[row]]
        # two orders of summing: 2e-6 of the largest logit
        bound = 2e-6 * float(own.abs().max())
        torch.testing.assert_close(got[row, -len(own) :], own, atol=bound, rtol=0)


@every_family
@pytest.mark.parametrize("layer", [0, 2])
@both_modes
def test_decoding_with_the_cache_equals_without_it(models, name, layer, mode):
    model, tiny = models(name), family(name)
    inputs = tiny.inputs("ragged")
    masks = fixed_sets(tiny.lengths("ragged"))
    indices = [mask.nonzero().squeeze(1).tolist() for mask in masks]
    options = GREEDY | {"return_dict_in_generate": True, "output_logits": True}
    outs = []
    for use_cache in (True, False):
        with FixedPrune(indices=indices, layer=layer, mode=mode)(model):
            outs.append(model.generate(**inputs, **options, use_cache=use_cache))
    assert torch.equal(outs[0].sequences, outs[1].sequences)
    for a, b in zip(outs[0].logits, outs[1].logits):
        torch.testing.assert_close(a, b, **CLOSE)


@every_family
@both_modes
def test_positions_stay_the_originals_when_decoding(models, name, mode):
    """Two turns by hand, no position ids given, equal one prompt that holds both."""
    model, tiny = models(name), family(name)
    first = tiny.inputs("one")
    masks = fixed_sets(tiny.lengths("one"))
    indices = [mask.nonzero().squeeze(1).tolist() for mask in masks]
    more = torch.tensor([[11, 12, 13]])
    with FixedPrune(indices=indices, layer=1, mode=mode)(model):
        cache = model(**first, use_cache=True).past_key_values
        held = [layer.keys.shape[2] for layer in cache.layers]
        turn = model(input_ids=more, past_key_values=cache, use_cache=True).logits
    length = first["input_ids"].shape[1]
    left = length - sum(int((~mask).sum()) for mask in masks) if mode == "inplace" else length
    assert isinstance(cache, PrunedCache) and held == [length, left, left, left, left]
    rows = tiny.rows("one")
    whole = tiny.batch([[*rows[0], 11, 12, 13]])
    want = oracle.logits(model, whole, masks, 1)
    torch.testing.assert_close(turn, want[:, -3:], **CLOSE)


@with_video
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_videos_in_place_equal_the_oracle(models, name, layer):
    model, tiny = models(name), family(name)
    for kind in ("video", "mixed"):
        inputs, lengths = tiny.inputs(kind), tiny.lengths(kind)
        masks = fixed_sets(lengths)
        indices = [mask.nonzero().squeeze(1).tolist() for mask in masks]
        with FixedPrune(indices=indices, layer=layer)(model) as pruner:
            got = model(**inputs).logits
            assert kept(pruner) == indices
            tokens = model.generate(**inputs, **GREEDY)
        compare_with_oracle(model, inputs, masks, layer, got)
        with FixedPrune(indices=indices, layer=layer, mode="mask")(model):
            assert torch.equal(model.generate(**inputs, **GREEDY), tokens)


# ---- the full contract for two methods ----------------------------------------------------------


@every_family
@full
@both_modes
def test_batch_equals_single(models, name, method, mode):
    model, tiny = models(name), family(name)
    rows = tiny.rows("ragged")
    with create(method, **FULL[method], mode=mode)(model) as pruner:
        generated = model.generate(**tiny.batch(rows), **GREEDY)
        together, first = kept(pruner), 0
        for number, row in enumerate(rows):
            alone = tiny.batch([row]) if any(isinstance(p, Picture) for p in row) else None
            if alone is None:
                plain = model.generate(input_ids=torch.tensor([row]), **GREEDY)
                assert torch.equal(plain[0, -4:], generated[number, -4:])
                continue
            single = model.generate(**alone, **GREEDY)
            own = kept(pruner)
            assert own == together[first : first + len(own)]
            assert torch.equal(single[0, -4:], generated[number, -4:])
            first += len(own)
    assert first == len(together)


@every_family
@full
def test_beams_and_several_sequences(models, name, method):
    model, tiny = models(name), family(name)
    rows = tiny.rows("ragged")
    if not hasattr(model, "_expand_multimodal_outputs"):
        # transformers 5.17 mixes up images when it repeats prompts of several or none of them
        rows = [rows[0], rows[0]] if name != "internvl" else [rows[3], rows[3]]
    inputs = tiny.batch(rows)
    with create(method, **FULL[method])(model) as pruner:
        greedy = model.generate(**inputs, **GREEDY)
        own, counts = kept(pruner), images_per_row(rows, tiny)
        beam = model.generate(**inputs, **GREEDY, num_beams=3, num_return_sequences=2)
        assert len(beam) == 2 * len(rows)
        assert kept(pruner) == repeated(own, counts, 3)
        once = model.generate(**inputs, **GREEDY, num_beams=1)
    assert torch.equal(once, greedy)
    with create(method, **FULL[method], mode="mask")(model):
        masked = model.generate(**inputs, **GREEDY, num_beams=3, num_return_sequences=2)
    assert torch.equal(masked, beam)


@pytest.mark.parametrize("name", ["smolvlm", "llava"])
@pytest.mark.parametrize("beams", [1, 3])
def test_random_draws_by_keys_of_prompts_are_the_same_alone_in_a_batch_and_with_beams(
    models, name, beams
):
    """A key a prompt, whatever the number of its tiles and wherever it stands."""
    model, tiny = models(name), family(name)
    row = tiny.rows("ragged")[0]
    rows, keys = [row] * 3, torch.tensor([7, 8, 9])
    if beams > 1 and name == "smolvlm" and not hasattr(model, "_expand_multimodal_outputs"):
        pytest.skip("transformers 5.17 repeats the tiles too, so that keys of prompts fit neither")
    (count,) = images_per_row([row], tiny)
    with create("random", keep=0.4)(model) as pruner:
        alone = []
        for key in keys[: len(rows), None]:
            pruner.image_keys = key
            model(**tiny.batch([row]))
            alone += kept(pruner)
        assert len({tuple(own) for own in alone}) == len(rows) * count  # each its own draw
        pruner.image_keys = keys[: len(rows)]
        model.generate(**tiny.batch(rows), **GREEDY, num_beams=beams)
        assert kept(pruner) == repeated(alone, [count] * len(rows), beams)


def images_per_row(rows, tiny):
    return [sum(len(tiny.tokens(p)) for p in row if isinstance(p, Picture)) for row in rows]


def repeated(sets, counts, copies):
    """The sets of every row, the whole row repeated."""
    found, first = [], 0
    for count in counts:
        found += sets[first : first + count] * copies
        first += count
    return found


@every_family
@full
@both_modes
def test_hooks_are_gone(models, name, method, mode):
    def state():
        return [
            (key, len(getattr(module, kind)), sorted(vars(module)))
            for key, module in model.named_modules()
            for kind in ("_forward_hooks", "_forward_pre_hooks")
        ]

    model, inputs = models(name), family(name).inputs("one")
    before, plain = state(), model(**inputs).logits
    with pytest.raises(ZeroDivisionError), create(method, **FULL[method], mode=mode)(model):
        model(**inputs)
        assert state() != before
        raise ZeroDivisionError
    assert state() == before and torch.equal(model(**inputs).logits, plain)


@with_video
@full
def test_frames_have_budgets_of_their_own(models, name, method):
    model, tiny = models(name), family(name)
    lengths = tiny.lengths("video")
    with create(method, **FULL[method])(model) as pruner:
        model(**tiny.inputs("video"))
        assert [len(k) for k in pruner.kept] == [pruner.budget(n) for n in lengths]
        if method == "entropy":  # the first video of the second prompt, alone
            rows = tiny.rows("video")
            frames = len(lengths) // 3
            sets = kept(pruner)[frames : 2 * frames]
            model(**tiny.batch([[1, *rows[1][4:5], 9]]))
            assert kept(pruner) == sets


@with_video
def test_towers_cannot_rank_images_and_videos_together(models, name):
    with create("entropy")(models(name)), pytest.raises(ValueError, match="images and videos"):
        models(name)(**family(name).inputs("mixed"))


@every_family
def test_half_precision_and_embeddings(models, name):
    model, tiny = family(name).model().to(torch.bfloat16), family(name)
    inputs = tiny.inputs("ragged")
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
    for method, options in FULL.items():
        with create(method, **options)(model) as pruner:
            out = model.generate(**half, **GREEDY, output_logits=True, return_dict_in_generate=True)
            assert all(torch.isfinite(step).all() for step in out.logits)
            assert [len(k) for k in pruner.kept] == [
                pruner.budget(n) for n in tiny.lengths("ragged")
            ]


def test_closing_up_positions_is_refused_where_they_have_several_rows(models):
    for name in ("qwen2_5_vl", "qwen3_vl"):
        with pytest.raises(TypeError, match="positions in time, height and width"):
            create("random", positions="contiguous")(models(name))


def test_a_window_that_is_switched_off_is_no_window(models):
    text = models("qwen2_5_vl").config.text_config
    assert not text.use_sliding_window
    assert resolve(models("qwen2_5_vl")).model_type == "qwen2_5_vl"
