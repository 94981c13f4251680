"""The contract every pruning method keeps, crossed over all registered methods and variants.

What is crossed generates three tokens: the prompt's, that of a step on the pruned cache, and that
of a step on what a step has added to. Later ones repeat this, whatever the method: fixed sets are
followed for longer, below in both modes and at several layers, and on every family.

One long file, since its tests share answers that are computed once in the process that runs it.
"""

import dataclasses
import functools

import pytest
import torch
from transformers import DynamicCache

from lib.pruning import FixedPrune, PrunedCache, VisualPruner, available, cache_bytes, create
from lib.pruning.registry import method
from tests.tiny import IMAGE, TOKENS, batch, one, prompt, ragged, tiny_llava, tiny_llava_next

VARIANTS = {
    "fastv layer 0": ("fastv", {"layer": 0}),
    "fastv layer 3": ("fastv", {"layer": 3}),
    "random layer 2": ("random", {"layer": 2}),
    "entropy adaptive": ("entropy", {"count": "adaptive"}),
    "entropy token": ("entropy", {"level": "token"}),
    "entropy one layer": ("entropy", {"layers": (-2, -2)}),
    "entropy language": ("entropy", {"source": "language", "layer": 2}),
    "selection greedy": ("selection", {"strategy": "greedy", "source": "language"}),
    "prumerge plus": ("prumerge", {"plus": True}),
    "prumerge adaptive": ("prumerge", {"count": "adaptive", "plus": True}),
    "tokencorr adaptive": ("tokencorr", {"count": "adaptive", "draw": "top"}),
    "divprune layer 2": ("divprune", {"layer": 2}),
    "pool layer 1": ("pool", {"layer": 1}),
    "pyramiddrop original": ("pyramiddrop", {"positions": "original"}),
    "sparsevlm 2": ("sparsevlm", {"version": "2"}),
    "priortr last": ("priortr", {"query": "last"}),
    "topv output": ("topv", {"target": "output", "recover": 0}),
    "weighted adaptive": ("weighted", {"count": "adaptive", "typical": 9.0}),
    "weighted entropy": ("weighted", {"entropy": 1.0, "attention": "value", "query": "text"}),
    "weighted tower": ("weighted", {"source": "vision", "attention": "tower", "layer": 0}),
}
CASES = {name: (name, {}) for name in available()} | VARIANTS
every_method = pytest.mark.parametrize("case", CASES)
both_modes = pytest.mark.parametrize("mode", ["inplace", "mask"])
GREEDY = {"do_sample": False, "max_new_tokens": 5}
SHORT = GREEDY | {"max_new_tokens": 3}


@pytest.fixture(scope="module")
def model():
    return tiny_llava()


@pytest.fixture(scope="module")
def eager():
    return tiny_llava(attention="eager")


@pytest.fixture(scope="module")
def half():
    return tiny_llava().to(torch.bfloat16)


@pytest.fixture(scope="module")
def next_model():
    return tiny_llava_next()


@pytest.fixture(scope="module")
def unpruned(model):
    """Logits and tokens of the ragged batch."""
    with torch.inference_mode():
        return model(**ragged()).logits, model.generate(**ragged(), **SHORT)


@pytest.fixture(scope="module")
def unpruned_one(model):
    """The last logits of one prompt, before anything was pruned."""
    with torch.inference_mode():
        return logits_at_end(model, one())


@pytest.fixture(scope="module")
def prefill(model):
    """A case's pruner when the ragged batch has gone through the model, and the logits."""

    @functools.cache
    def prefilled(case):
        with make(case)(model) as pruner:
            logits = model(**ragged()).logits
        return pruner, logits

    return prefilled


@pytest.fixture(scope="module")
def answers(model):
    """What a case generates in a mode for a batch by this name, and what it keeps."""

    @functools.cache
    def answer(case, mode, inputs="ragged"):
        with make(case, mode=mode)(model) as pruner:
            tokens = model.generate(**BATCHES[inputs](), **SHORT)
        return tokens, sets(pruner)

    return answer


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


#: options that let a method run in both modes, where it has them
COMPARABLE = {"order": "raster"}
#: methods that merge inside the vision tower, at most half in each block
IN_TOWER = ("tome", "ppt")


def kind(case):
    return method(CASES[case][0])


def make(case, **options):
    """The case's pruner, in raster order."""
    name, fixed = CASES[case]
    known = {f.name for f in dataclasses.fields(kind(case))}
    same = {option: value for option, value in COMPARABLE.items() if option in known}
    return create(name, **(same | fixed | options))


def sets(pruner):
    return [kept.tolist() for kept in pruner.kept]


def hooks(model):
    return [
        (name, kind, len(getattr(module, kind)))
        for name, module in model.named_modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    ] + [(name, "forward" in vars(module)) for name, module in model.named_modules()]


def logits_at_end(model, inputs, **options):
    return model(**inputs, **options).logits[:, -1]


def reference(model, inputs, stages, *, contiguous=False):
    """Logits of the last position and the stay mask, by a plain loop over the layers (no hooks).

    stages: `(layer, masks or indices of each image)`; dropped tokens are hidden as keys from the
    layer on. Positions are counted over real tokens, or over those that are left.
    """
    language = model.model.language_model
    ids, valid = inputs["input_ids"], inputs["attention_mask"].bool()
    features = model.model.get_image_features(inputs["pixel_values"]).pooler_output
    states = language.embed_tokens(ids)
    states[ids == IMAGE] = torch.cat(list(features))
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    eye = torch.eye(ids.shape[1], dtype=torch.bool)
    keys = valid
    for index, block in enumerate(language.layers):
        for layer, kept in stages:
            if layer == index:
                keys = valid & staying(ids, kept)
        counted = keys if contiguous else valid
        positions = (counted.long().cumsum(1) - 1).clamp(min=0)
        rotary = language.rotary_emb(states, positions)
        mask = (causal & keys[:, None]) | eye  # a hidden token may see itself: nobody reads it
        states = block(states, attention_mask=mask[:, None], position_embeddings=rotary)
    return model.lm_head(language.norm(states)), keys


def staying(ids, kept):
    """Bool like `ids`, False for image tokens that are not among those kept of each image."""
    stay = torch.ones_like(ids, dtype=torch.bool)
    images = iter(kept)
    for row in range(len(ids)):
        columns = (ids[row] == IMAGE).nonzero().squeeze(1)
        for block in columns.split(TOKENS):
            if len(block):
                stay[row, block] = False
                stay[row, block[next(images)]] = True
    return stay


@every_method
@both_modes
def test_keep_one_reproduces_the_unpruned_model(model, unpruned, case, mode):
    inputs, (plain, tokens) = ragged(), unpruned
    with make(case, keep=1.0, mode=mode)(model) as pruner:
        assert torch.equal(model(**inputs).logits, plain)
        assert torch.equal(model.generate(**inputs, **SHORT), tokens)
        assert [len(k) for k in pruner.kept] == [TOKENS] * 4


@every_method
@pytest.mark.parametrize("keep", [0.05, 0.25, 0.5, 0.9])
def test_kept_count_is_exact_where_promised(model, case, keep):
    if case in IN_TOWER and keep == 0.05:
        with pytest.raises(ValueError, match="at most half in each"), make(case, keep=keep)(model):
            pass
        return
    pruner = make(case, keep=keep)
    with pruner(model):
        model(**ragged())
    budget = pruner.budget(TOKENS)
    assert len(pruner.kept) == 4
    for kept in pruner.kept:
        assert len(kept) == budget if pruner.exact else 1 <= len(kept) <= pruner.most(TOKENS)
        assert torch.equal(kept, kept.unique())  # raster order, no duplicates
        assert kept.min() >= 0 and kept.max() < TOKENS


@every_method
def test_text_survives_and_the_sequence_is_as_short_as_it_should_be(model, prefill, case):
    inputs, (pruner, pruned) = ragged(), prefill(case)
    per_row = [1, 2, 1]
    kept = iter(map(len, pruner.kept))
    expected = max(
        length - TOKENS * images + sum(next(kept) for _ in range(images)) + padding
        for length, images, padding in zip(
            inputs["attention_mask"].sum(1).tolist(),
            per_row,
            (inputs["attention_mask"] == 0).sum(1).tolist(),
        )
    )
    assert pruned.shape[1] == expected
    if pruner.merges:
        return
    closed = pruner.positions == "contiguous"
    logits, stay = reference(model, inputs, pruner.kept_stages, contiguous=closed)
    for row in range(3):
        survivors = logits[row, stay[row]]
        torch.testing.assert_close(pruned[row, -len(survivors) :], survivors, atol=1e-4, rtol=1e-4)


@every_method
@pytest.mark.parametrize("use_cache", [True, False])
def test_in_place_equals_mask_for_the_same_kept_set(model, prefill, case, use_cache):
    inputs, (pruner, _) = ragged(), prefill(case)
    layer, indices = pruner.stages()[-1], sets(pruner)
    results = {}
    for mode in ("inplace", "mask"):
        with FixedPrune(indices=indices, layer=layer, mode=mode)(model) as fixed:
            out = model(**inputs, use_cache=use_cache)
            assert [k.tolist() for k in fixed.kept] == indices
            generated = model.generate(**inputs, **SHORT, use_cache=use_cache)
        results[mode] = out.logits, generated
    logits, stay = reference(model, inputs, [(layer, indices)])
    for row in range(3):
        survivors = logits[row, stay[row]]
        shown = results["mask"][0][row, stay[row]]
        torch.testing.assert_close(shown, survivors, atol=1e-4, rtol=1e-4)
        in_place = results["inplace"][0][row, -len(survivors) :]
        torch.testing.assert_close(in_place, survivors, atol=1e-4, rtol=1e-4)
    assert torch.equal(results["inplace"][1], results["mask"][1])


@every_method
def test_mode_does_not_change_what_is_kept(answers, case):
    (first, kept), (second, kept_by_mask) = answers(case, "inplace"), answers(case, "mask")
    assert kept == kept_by_mask
    assert torch.equal(first, second)


@pytest.mark.parametrize("layer", [0, 1, 3])
@both_modes
def test_generation_with_the_cache_equals_without_it(model, layer, mode):
    inputs, indices = ragged(), [[0, 5, 9], list(range(20)), [35], [3, 4, 30, 31]]
    options = GREEDY | {"return_dict_in_generate": True, "output_logits": True}
    outs = []
    for use_cache in (True, False):
        with FixedPrune(indices=indices, layer=layer, mode=mode)(model):
            outs.append(model.generate(**inputs, **options, use_cache=use_cache))
    assert torch.equal(outs[0].sequences, outs[1].sequences)
    for a, b in zip(outs[0].logits, outs[1].logits):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@every_method
@both_modes
def test_batch_equals_single(model, answers, case, mode):
    together, (generated, kept) = ragged(), answers(case, mode)
    with make(case, mode=mode)(model) as pruner:
        first = 0
        for row, images in enumerate([1, 2, 1]):
            alone = {
                "input_ids": together["input_ids"][row, together["attention_mask"][row] > 0][None],
                "pixel_values": together["pixel_values"][first : first + images],
            }
            single = model.generate(**alone, **SHORT)
            assert sets(pruner) == kept[first : first + images]
            assert torch.equal(single[0, -3:], generated[row, -3:])
            first += images


@every_method
def test_same_options_same_kept_set_in_any_order_of_the_images(model, case):
    inputs = batch([prompt(before=3, after=4, seed=s) for s in range(3)], 3)
    turned = {k: v.flip(0) for k, v in inputs.items()}
    with make(case)(model) as pruner:
        model(**inputs)
        kept = sets(pruner)
        model(**turned)
        assert sets(pruner)[::-1] == kept
    with make(case)(model) as again:
        model(**inputs)
    assert sets(again) == kept


def even():
    """Three prompts of an image each."""
    return batch([prompt(before=2 + s, after=4, seed=s) for s in range(3)], 3)


BATCHES = {"ragged": ragged, "even": even}


def for_beams(model):
    """Name of a batch and images per prompt. transformers 5.17 mixes up the images of a prompt with
    two of them when it repeats the prompt for beams; later versions repeat whole prompts."""
    if hasattr(model, "_expand_multimodal_outputs"):
        return "ragged", [1, 2, 1]
    return "even", [1, 1, 1]


@pytest.mark.slow
@every_method
@both_modes
def test_sampling_beams_and_several_sequences(model, answers, case, mode):
    name, images_per_prompt = for_beams(model)
    inputs, (greedy, kept) = BATCHES[name](), answers(case, mode, name)
    with make(case, mode=mode)(model) as pruner:
        beam = model.generate(**inputs, **SHORT, num_beams=3, num_return_sequences=2)
        assert beam.shape[0] == 6
        copies = sets(pruner)
        assert len(copies) == 3 * len(kept)
        row = first = 0
        for images in images_per_prompt:
            for _ in range(3):  # three copies of each prompt's images
                assert copies[row : row + images] == kept[first : first + images]
                row += images
            first += images
        one_beam = model.generate(**inputs, **SHORT, num_beams=1)
        assert torch.equal(one_beam, greedy)
        draws = []
        for _ in range(2):
            torch.manual_seed(7)
            draws.append(
                model.generate(**inputs, max_new_tokens=3, do_sample=True, num_return_sequences=2)
            )
        assert torch.equal(*draws)


@pytest.mark.parametrize("layer", [0, 2])
def test_beam_search_is_the_same_in_place_and_by_mask(model, layer):
    """Ragged rows and beams that reorder the cache: the masks must move with the keys."""
    name, images_per_prompt = for_beams(model)
    inputs = BATCHES[name]()
    indices = [[1, 2], list(range(30)), [7], [0, 35]][: sum(images_per_prompt)]
    outs = []
    for mode in ("inplace", "mask"):
        with FixedPrune(indices=indices, layer=layer, mode=mode)(model):
            outs.append(model.generate(**inputs, do_sample=False, max_new_tokens=8, num_beams=4))
    assert torch.equal(*outs)


@every_method
def test_eager_and_sdpa_agree_and_neither_is_switched(model, eager, case):
    results = []
    for one_model, attention in ((model, "sdpa"), (eager, "eager")):
        with make(case)(one_model) as pruner:
            out = one_model(**ragged())
            config = one_model.model.language_model.config
            assert config._attn_implementation == attention
            assert one_model.model.vision_tower.config._attn_implementation == attention
        results.append((sets(pruner), out.logits[:, -1]))
    assert results[0][0] == results[1][0]
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-4, rtol=1e-4)


@every_method
@both_modes
def test_hooks_are_gone_after_exit_and_after_an_exception(model, unpruned_one, case, mode):
    before = hooks(model)
    with make(case, mode=mode)(model):
        model.generate(**one(), **SHORT)
        assert hooks(model) != before
    assert hooks(model) == before
    with pytest.raises(ZeroDivisionError), make(case, mode=mode)(model):
        model(**one())
        raise ZeroDivisionError
    assert hooks(model) == before
    with make(case, mode=mode)(model) as pruner:  # an exception inside the model's own forward
        bad = one() | {"pixel_values": torch.zeros(1, 3, 5, 5)}
        with pytest.raises(ValueError, match="image size"):
            model(**bad)
        model(**one())
        assert pruner.active
    assert hooks(model) == before and not pruner.active
    assert torch.equal(logits_at_end(model, one()), unpruned_one)


@every_method
def test_nested_and_repeated_use_is_refused(model, case):
    pruner = make(case)
    with pytest.raises(RuntimeError, match="bind a model first"), pruner:
        pass
    with pruner(model):
        with pytest.raises(RuntimeError, match="do not nest"), make(case)(model):
            pass
        with pytest.raises(RuntimeError, match="already active"):
            pruner(model)
        with pytest.raises(RuntimeError, match="already active"), pruner:
            pass
    with pruner(model):  # one after the other is fine
        model(**one())


@every_method
@both_modes
def test_cache_holds_what_it_should_layer_by_layer(model, case, mode):
    inputs = one()
    length = inputs["input_ids"].shape[1]
    with make(case, mode=mode)(model) as pruner:
        cache = model(**inputs, use_cache=True).past_key_values
        held = [length] * 5
        for layer, masks in pruner.kept_stages if mode == "inplace" else []:
            held[layer:] = [length - TOKENS + int(masks[0].sum())] * (5 - layer)
        assert isinstance(cache, PrunedCache)
        assert [layer.keys.shape[2] for layer in cache.layers] == held
        per_position = 2 * 2 * 8 * 4  # keys and values, 2 heads, 8 wide, float32
        assert cache_bytes(cache) == [n * per_position for n in held]
        assert cache.get_seq_length() == length  # what generate counts: the tokens it passed in
        step = torch.tensor([[5]])
        model(input_ids=step, past_key_values=cache, use_cache=True)
        assert [layer.keys.shape[2] for layer in cache.layers] == [n + 1 for n in held]
        assert cache.get_seq_length() == length + 1


@every_method
@both_modes
def test_positions_go_on_in_decoding_as_they_began(model, case, mode):
    """Two turns by hand, with no position ids given, equal one prompt that holds both turns."""
    first = one()
    more = torch.tensor([[11, 12, 13]])
    with make(case, mode=mode)(model) as pruner:
        cache = model(**first, use_cache=True).past_key_values
        kept = sets(pruner)
        turn = model(input_ids=more, past_key_values=cache, use_cache=True).logits
        last = model(input_ids=torch.tensor([[14]]), past_key_values=cache, use_cache=True).logits[
            :, -1
        ]
        assert sets(pruner) == kept
        stages, closed = pruner.kept_stages, pruner.positions == "contiguous"
    if pruner.merges:
        return
    ids = torch.cat([first["input_ids"], more, torch.tensor([[14]])], 1)
    whole = first | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    logits, _ = reference(model, whole, stages, contiguous=closed)
    torch.testing.assert_close(turn, logits[:, -4:-1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(last, logits[:, -1], atol=1e-4, rtol=1e-4)


@both_modes
@pytest.mark.parametrize("layer", [0, 2])
def test_a_second_turn_through_generate(model, mode, layer):
    """`generate` continues a returned cache: it must not feed old tokens again."""
    indices, first = [[0, 10, 20]], one()
    with FixedPrune(indices=indices, layer=layer, mode=mode)(model):
        out = model.generate(**first, **GREEDY, return_dict_in_generate=True)
        longer = torch.cat([out.sequences, torch.tensor([[21, 22]])], 1)
        second = model.generate(
            input_ids=longer, attention_mask=torch.ones_like(longer),
            past_key_values=out.past_key_values, **GREEDY,
        )  # fmt: skip
        fresh = model.generate(
            input_ids=longer, attention_mask=torch.ones_like(longer),
            pixel_values=first["pixel_values"], **GREEDY,
        )  # fmt: skip
    assert torch.equal(second, fresh)


@both_modes
def test_an_image_in_a_later_turn_is_pruned_too(model, mode):
    words = batch([[1, 5, 6, 7], [1, 8]], 0)
    ids, mask = words["input_ids"], words["attention_mask"]
    second = batch([prompt(before=2, after=3), prompt(before=2, after=3, seed=1)], 2)
    both = torch.cat([ids, second["input_ids"]], 1)
    valid = torch.cat([mask, second["attention_mask"]], 1)
    positions = (valid.cumsum(1) - 1).clamp(min=0)
    with create("fastv", keep=0.25, layer=2, mode=mode)(model) as pruner:
        cache = DynamicCache(config=model.config.text_config)
        model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True,
            position_ids=positions[:, : ids.shape[1]],
        )  # fmt: skip
        assert type(cache) is DynamicCache  # nothing to prune yet
        out = model(
            input_ids=second["input_ids"], attention_mask=valid, past_key_values=cache,
            pixel_values=second["pixel_values"], position_ids=positions[:, ids.shape[1] :],
        )  # fmt: skip
        kept = sets(pruner)
        pixel_values = second["pixel_values"]
        whole = {"input_ids": both, "attention_mask": valid, "pixel_values": pixel_values}
        again = model(**whole, position_ids=positions)
        assert sets(pruner) == kept
    logits, _ = reference(model, whole, [(2, kept)])
    torch.testing.assert_close(out.logits[:, -1], logits[:, -1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(again.logits[:, -1], logits[:, -1], atol=1e-4, rtol=1e-4)


@every_method
def test_right_padding_in_a_plain_forward(model, case):
    """The last real token asks, wherever the padding is."""
    prompts = [prompt(before=2, after=4), prompt(before=5, after=6, seed=1)]
    left = batch(prompts, 2)
    right = batch(prompts, 2, side="right")
    positions = (left["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with make(case)(model) as pruner:
        a = model(**left, position_ids=positions).logits[0, -1]
        kept = sets(pruner)
        b = model(**right).logits
        assert sets(pruner) == kept
        padding = int((right["attention_mask"][0] == 0).sum())
    torch.testing.assert_close(b[0, -1 - padding], a, atol=1e-4, rtol=1e-4)


@every_method
def test_half_precision(half, case):
    inputs = ragged() | {"pixel_values": ragged()["pixel_values"].to(torch.bfloat16)}
    with make(case)(half) as pruner:
        out = half.generate(**inputs, **SHORT, output_logits=True, return_dict_in_generate=True)
    assert all(torch.isfinite(step).all() for step in out.logits)
    assert len(pruner.kept) == 4


@every_method
def test_a_prompt_without_an_image_is_left_alone(model, case):
    ids = torch.tensor([[1, 5, 6, 7]])
    plain = model(input_ids=ids).logits
    with make(case)(model) as pruner:
        assert torch.equal(model(input_ids=ids).logits, plain)
        with pytest.raises(RuntimeError, match="nothing was pruned yet"):
            _ = pruner.kept


@every_method
def test_embeddings_instead_of_ids(model, prefill, case):
    inputs, (by_ids, logits) = ragged(), prefill(case)
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    with make(case)(model) as pruner:
        by_embeds = logits_at_end(model, inputs | {"inputs_embeds": embeds})
        assert sets(pruner) == sets(by_ids)
    torch.testing.assert_close(logits[:, -1], by_embeds)


@every_method
def test_what_cannot_work_is_refused_clearly(model, case):
    with make(case)(model):
        with pytest.raises(ValueError, match="labels do not line up"):
            model(**one(), labels=one()["input_ids"])
        with pytest.raises(ValueError, match="logits_to_keep"):
            model(**one(), logits_to_keep=torch.tensor([1]))
        with pytest.raises((TypeError, ValueError), match=r"DynamicCache|4D masks"):
            model.generate(**one(), **SHORT, cache_implementation="static")
        with pytest.raises(ValueError, match="prefill_chunk_size=16"):
            model.generate(**one(), **SHORT, prefill_chunk_size=16)
        cache = model(**one(), use_cache=True).past_key_values
        step = {"input_ids": torch.tensor([[5]]), "past_key_values": cache}
    with pytest.raises(RuntimeError, match="with-block that has ended"):
        model(**step)
    with make(case)(model), pytest.raises(RuntimeError, match="by another pruner"):
        model(**step)


@every_method
def test_labels_work_by_mask(model, case):
    inputs = one()
    with make(case, mode="mask")(model):
        loss = model(**inputs, labels=inputs["input_ids"]).loss
    assert torch.isfinite(loss)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"keep": 0.0}, "keep must be in"),
        ({"keep": 1.5}, "keep must be in"),
        ({"keep": float("nan")}, "keep must be in"),
        ({"layer": -1}, "layer must be"),
        ({"layer": 1.5}, "layer must be"),
        ({"mode": "soft"}, "mode must be"),
    ],
)
@pytest.mark.parametrize("name", available())
def test_bad_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        create(name, **options)


#: numbers that a method has of its own, where nobody says otherwise: those that its source uses,
#: and of this study's own methods those that its results were computed with
DEFAULTS = {
    "dart": {"layer": 2, "visual_pivots": 4, "text_pivots": 4},
    "entropy": {"random_state": 0},
    "fastv": {"layer": 2, "seed": 0},
    "head-entropy": {"layer": 2, "normalised": False},
    "hired": {"alpha": 0.5},
    "llavolta": {"layer": 2},
    "mmtok": {"alpha": 0.5, "text_temperature": 0.02, "vision_temperature": 0.2},
    "ppt": {"threshold": pytest.approx(2.68912)},  # 7e-5 at 196 patches
    "priortr": {"layer": 3},
    "prumerge": {"plus": False},
    "pyramiddrop": {"keep": 1 / 8},
    "random": {"seed": 0},
    "scope": {"alpha": 1.0},
    "selection": {"cover": 1.0, "random_state": 0},
    "sparsevlm": {"heads": 14},
    "tokencorr": {"similar": 0.8, "repeats": 8, "seed": 0},
    "topv": {
        "layer": 3, "feature": 1.0, "spatial": 1.0, "central": 0.01, "sigma": 10.0,
        "epsilon": 0.1, "iterations": 3, "recover": 4,
    },
    "v2drop": {"keep": 1 / 576},
    "visionzip": {"contextual": 10 / 64, "class_token": True},
    "vispruner": {"important": 0.5, "step": 8},
    "weighted": {
        "layer": 2, "power": 1.0, "uniform": 0.0, "cover": 1.0, "entropy": 0.0, "volume": 0.0,
        "relevance": 0.0, "floor": 0.0, "rank_power": 1.0, "bound": 2.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", available())
def test_what_is_left_out_is_as_published(name):
    general = {f.name: f.default for f in dataclasses.fields(VisualPruner)}
    assert general == {
        "keep": 0.5, "average": None, "layer": 0, "mode": "inplace", "positions": "original",
    }  # fmt: skip
    own = {
        f.name: f.default
        for f in dataclasses.fields(method(name))
        if f.init and isinstance(f.default, int | float) and general.get(f.name) != f.default
    }
    assert own == DEFAULTS.get(name, {})


#: the last values that options may have
LIMITS = {
    "cdpruner": {"strength": [0.0]},
    "dart": {"visual_pivots": [1], "text_pivots": [0]},
    "entropy": {"core_clusters": [1], "tokens_per_cluster": [1]},
    "hired": {"alpha": [0.0, 1.0]},
    "mmtok": {"alpha": [0.0]},
    "ppt": {"threshold": [0.0]},
    "selection": {"cover": [0.0]},
    "sparsevlm": {"heads": [1]},
    "tokencorr": {"similar": [-1.0, 1.0], "repeats": [0]},
    "topv": {"iterations": [1], "recover": [0, 2]},
    "visionzip": {"contextual": [0.0, 1.0]},
    "vispruner": {"important": [0.0, 1.0], "step": [1]},
    "weighted": {"uniform": [0.0, 1.0], "floor": [0.0, 1.0], "power": [0.0]},
}


@pytest.mark.parametrize("keep", [1 / TOKENS, 0.25, 1 - 1 / TOKENS])
@pytest.mark.parametrize(
    "name, option, value",
    [(n, o, v) for n, options in LIMITS.items() for o, values in options.items() for v in values],
)
def test_what_is_accepted_works(model, name, option, value, keep):
    """Where an option ends, a share of the budget may be nothing or all of it."""
    if name in IN_TOWER:
        keep = max(keep, 0.25)
    with create(name, **{option: value}, keep=keep)(model) as pruner:
        assert torch.isfinite(model(**ragged()).logits).all()
        if pruner.exact:
            assert pruner.kept_counts == [pruner.budget(TOKENS)] * 4


def test_unknown_names_options_layers_and_models(model):
    with pytest.raises(ValueError, match=r"unknown pruning method 'fastw'; available: .*entropy"):
        create("fastw")
    with pytest.raises(ValueError, match="fastv has no option 'kept'"):
        create("fastv", kept=0.5)
    with pytest.raises(ValueError, match="below the language model's 5 layers, got 5"):
        create("random", layer=5)(model)
    with pytest.raises(TypeError, match=r"Linear .* is not a model whose visual tokens"):
        create("random")(torch.nn.Linear(2, 2))


@every_method
def test_options_are_plain_json_and_rebuild_the_method(case):
    import json

    pruner = make(case)
    options = json.loads(json.dumps(pruner.options()))
    assert create(options.pop("method"), **options).options() == pruner.options()
    assert {f.name for f in dataclasses.fields(pruner)} == options.keys()


@pytest.mark.parametrize("name", available())
def test_pruners_are_told_apart_by_identity_and_options_by_name(name):
    """Two pruners with the same options are in use at once, and are keys of dictionaries."""
    first, second = create(name), create(name)
    assert first != second and len({first, second}) == 2
    assert all(option.kw_only for option in dataclasses.fields(method(name)) if option.init)


#: choices that the text does not change although no `vision_only` says so: drawn by keys that a
#: caller may give, looking at what the language model would read, or merging what it made
ANYWAY = {
    "random", "random layer 2", "fastv layer 0", "selection greedy", "weighted tower", "llavolta",
    "pool layer 1",
}  # fmt: skip


@every_method
def test_the_text_changes_the_choice_unless_it_is_of_vision_only(model, case):
    """One image among four texts."""
    image = one(seed=3)["pixel_values"]
    found = set()
    for before, after in [
        ([5], [6, 8, 9]),
        ([7, 30, 12], [60, 3, 44, 21]),
        ([44], [70]),
        ([], [33]),
    ]:
        inputs = batch([[1, *before, *[IMAGE] * TOKENS, *after]], 1) | {"pixel_values": image}
        with make(case, keep=0.4)(model) as pruner:
            model(**inputs)
            found.add(tuple(pruner.kept[0].tolist()))
    assert (len(found) == 1) == (pruner.vision_only or case in ANYWAY)


@every_method
def test_a_count_that_varies_has_a_bound_where_one_is_promised(model, case):
    """`most` is that bound, and `bounded` says that a method knows one."""
    pruner = make(case, keep=0.25)
    assert pruner.exact or pruner.bounded == (type(pruner).most is not VisualPruner.most)
    if pruner.bounded:
        with pruner(model):
            model(**ragged())
            assert max(pruner.kept_counts) <= pruner.most(TOKENS)


def without_a_token(model, number):
    """Hooks under which a patch of every image is zero in the tower and before the first layer."""

    def block(module, args, output):
        states = (output[0] if isinstance(output, tuple) else output).clone()
        states[:, 1 + number] = 0  # the class token is the first
        return (states, *output[1:]) if isinstance(output, tuple) else states

    def projector(module, args, output):
        output = output.clone()
        if output.shape[1] == TOKENS:  # a method may project merged tokens
            output[:, number] = 0
        return output

    blocks = model.model.vision_tower.encoder.layers
    handles = [layer.register_forward_hook(block) for layer in blocks]
    return [*handles, model.model.multi_modal_projector.register_forward_hook(projector)]


@every_method
def test_a_token_of_zeros_breaks_no_method(model, case):
    """It has no direction: every cosine with it is undefined."""
    handles = without_a_token(model, 5)
    try:
        with make(case, keep=0.6)(model) as pruner:
            assert torch.isfinite(model(**ragged()).logits).all()
            assert all(len(kept) for kept in pruner.kept)
    finally:
        for handle in handles:
            handle.remove()


# ---- LLaVA-NeXT: images of different lengths ---------------------------------------------------


def next_inputs(model):
    """Two prompts whose images have different numbers of visual tokens."""
    from tests.tiny import pixels

    sizes = torch.tensor([[42, 84], [84, 42]])
    tiles = pixels(6).view(2, 3, 3, 42, 42)
    features = model.model.get_image_features(tiles, sizes).pooler_output
    lengths = [len(f) for f in features]
    prompts = [[1, 5, *[IMAGE] * lengths[0], 6], [1, 5, 7, *[IMAGE] * lengths[1], 6, 8]]
    inputs = batch(prompts, 1)
    return inputs | {"pixel_values": tiles, "image_sizes": sizes}, lengths


@pytest.fixture(scope="module")
def unpruned_next(next_model):
    """Inputs, numbers of visual tokens and what the whole model answers."""
    with torch.inference_mode():
        inputs, lengths = next_inputs(next_model)
        return inputs, lengths, next_model.generate(**inputs, **SHORT)


NEXT = [case for case in CASES if kind(case).supports is None]


@pytest.mark.slow
@pytest.mark.parametrize("case", NEXT)
@both_modes
def test_llava_next(next_model, unpruned_next, case, mode):
    model, (inputs, lengths, plain) = next_model, unpruned_next
    with make(case, keep=1.0, mode=mode)(model):
        assert torch.equal(model.generate(**inputs, **SHORT), plain)
    with make(case, mode=mode)(model) as pruner:
        out = model.generate(**inputs, **SHORT)
        for kept, length in zip(pruner.kept, lengths):
            budget = pruner.budget(length)
            assert len(kept) == budget if pruner.exact else 1 <= len(kept) <= pruner.most(length)
        beam = model.generate(**inputs, **SHORT, num_beams=2)
    assert len(out) == len(beam) == 2


@pytest.mark.parametrize("case", [case for case in CASES if case not in NEXT])
def test_llava_next_is_refused_by_name(next_model, case):
    name = kind(case).__name__
    with pytest.raises(TypeError, match=f"{name} does not support LlavaNextForConditionalGenerat"):
        make(case)(next_model)


@every_method
def test_as_published_the_cache_changes_nothing(model, case):
    """With the order and the positions that the method was published with.

    Without a cache every step is a fresh prefill, in which the answer so far is part of the prompt.
    """
    name, fixed = CASES[case]
    inputs = ragged()
    positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)  # as generate counts them
    with create(name, **fixed)(model) as pruner:
        answers = [model.generate(**inputs, **SHORT)]
        kept = sets(pruner)
        model(**inputs, position_ids=positions)
        assert sets(pruner) == kept
        if pruner.vision_only:
            answers.append(model.generate(**inputs, **SHORT, use_cache=False))
            assert sets(pruner) == kept
    assert torch.equal(answers[0], answers[-1])
