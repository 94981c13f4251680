"""The engine under use as public bug reports describe it: each pass stands alone, every image is
found, wrapped and compiled models are pruned or refused, and promises are compared."""

import copy
import gc
import threading
import warnings
import weakref
from collections import Counter

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

from lib.pruning import (
    EntropyPrune,
    FastV,
    FixedPrune,
    RandomPrune,
    VisualPruner,
    available,
    create,
)
from lib.pruning.engine import release
from lib.pruning.engine.sequence import Chosen
from tests.pruning import oracle
from tests.tiny import (
    IMAGE,
    PATCH,
    SIDE,
    TOKENS,
    VOCABULARY,
    batch,
    one,
    pixels,
    prompt,
    ragged,
    tiny_llava,
    tiny_llava_next,
)  # fmt: skip

GREEDY = {"do_sample": False, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def model():
    return tiny_llava()


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def kept(pruner):
    return [k.tolist() for k in pruner.kept]


# ---- A. what a hook stores belongs to one pass ---------------------------------------------------


@pytest.mark.parametrize("name", available())
def test_features_computed_in_the_block_keep_their_own_images(model, name):
    """Encoded beforehand, used twice, in any order: the choice is that of the image at hand."""
    if not hasattr(model, "_expand_multimodal_outputs"):
        pytest.skip("this transformers takes no encoded features")
    a, b = one(seed=1), one(seed=2)
    with create(name)(model) as pruner:
        want = {}
        for key, inputs in (("a", a), ("b", b)):
            model(**inputs)
            want[key] = kept(pruner)
        features = {
            key: model.model.get_image_features(inputs["pixel_values"], return_dict=True)
            for key, inputs in (("a", a), ("b", b))
        }
        for key in "abba":
            inputs = {k: v for k, v in {"a": a, "b": b}[key].items() if k != "pixel_values"}
            model(**inputs, mm_encoder_outputs={"image": copy.copy(features[key])})
            assert kept(pruner) == want[key]


@pytest.mark.parametrize("name", ["entropy", "selection", "random", "tome"])
def test_features_computed_before_the_block_are_refused(model, name):
    inputs = one()
    features = model.model.get_image_features(inputs.pop("pixel_values"), return_dict=True)
    if not hasattr(model, "_expand_multimodal_outputs"):
        pytest.skip("this transformers takes no encoded features")
    with create(name)(model), pytest.raises(ValueError, match="computed outside of the with-block"):
        model(**inputs, mm_encoder_outputs={"image": features})
    with FastV()(model) as pruner:  # needs nothing of the vision tower
        model(**inputs, mm_encoder_outputs={"image": features})
        assert len(pruner.kept[0]) == 18


@pytest.mark.parametrize("name", available())
def test_an_exception_leaves_nothing_behind(model, name):
    with create(name)(model) as pruner:
        model(**one(seed=1))
        before = kept(pruner)
        with pytest.raises(ValueError):
            model(**(one(seed=2) | {"pixel_values": torch.zeros(1, 3, 5, 5)}))
        assert not pruner.in_pass and kept(pruner) == before
        model(input_ids=torch.tensor([[1, 5, 6]]))
        model(**one(seed=2))
        again = kept(pruner)
    with create(name)(model) as fresh:
        model(**one(seed=2))
        assert kept(fresh) == again


@pytest.mark.parametrize("name", available())
def test_several_threads_each_get_their_own(model, name):
    inputs = [batch([prompt(before=4 + s, after=5 + s, seed=s)], 1, seed=s) for s in range(3)]
    results = Counter()
    with create(name)(model) as pruner:
        want = [(model.generate(**i, **GREEDY), kept(pruner)) for i in inputs]

        def work(k):
            with torch.no_grad():
                for _ in range(6):
                    out = model.generate(**inputs[k], **GREEDY)
                    right = torch.equal(out, want[k][0]) and kept(pruner) == want[k][1]
                    results[right] += 1

        threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {True: 18}


@pytest.mark.parametrize("name", available())
def test_no_activation_outlives_its_pass(model, name):
    """Tensors of a prefill die with it, whether or not the block goes on."""
    alive = []

    def remember(module, args, kwargs, output):
        alive.append(weakref.ref(output if isinstance(output, torch.Tensor) else output[0]))

    modules = [*model.model.vision_tower.encoder.layers, model.model.multi_modal_projector]
    modules += [*model.model.language_model.layers]
    modules += [layer.self_attn.k_proj for layer in model.model.language_model.layers]
    handles = [m.register_forward_hook(remember, with_kwargs=True) for m in modules]
    pruner = create(name)
    try:
        with pruner(model):
            model(**ragged(), use_cache=False)
            gc.collect()
            assert alive and not [r for r in alive if r() is not None]
    finally:
        for handle in handles:
            handle.remove()


# ---- D. passes of several tokens that are no prompt ----------------------------------------------


def placed():
    """Every method at layers 0 and 2, or where it can stand; none twice."""
    for name in available():
        done = []
        for options in ({"layer": 0}, {"layer": 2}, {}):
            try:
                settings = create(name, **options).options()
            except ValueError:  # it cannot stand there
                continue
            if settings not in done and (options or not done):
                done.append(settings)
                yield pytest.param(name, options, id=f"{name}-{settings.get('layer')}")


@pytest.fixture(scope="module")
def repeating(model):
    """Prompts in which the word before the image is one that the model says: drafts follow it."""
    prompts = []
    for seed in range(12):
        inputs = one(seed=seed)
        with torch.no_grad():
            word = model.generate(**inputs, **GREEDY)[0, -6].item()
        if word != IMAGE:
            inputs["input_ids"][0, 4] = word
            prompts.append(inputs)
    assert len(prompts) >= 6
    return prompts


@pytest.mark.parametrize("name, options", list(placed()))
def test_prompt_lookup_drafts_change_nothing(model, repeating, name, options):
    """Drafts stand behind the prompt in the first pass, and may hold placeholders."""
    with create(name, keep=0.9, **options)(model) as pruner:
        for inputs in repeating:
            want = model.generate(**inputs, **GREEDY)
            sets = kept(pruner)
            got = model.generate(**inputs, **GREEDY, prompt_lookup_num_tokens=3)
            assert torch.equal(got, want) and kept(pruner) == sets


def test_an_assistant_model_changes_nothing(model):
    if not hasattr(model, "_expand_multimodal_outputs"):
        pytest.skip("this transformers hands the pixels to an assistant that takes none")
    config = model.config.text_config
    torch.manual_seed(1)
    assistant = LlamaForCausalLM(
        LlamaConfig(**(config.to_dict() | {"num_hidden_layers": 1}))
    ).eval()
    assistant.generation_config.pad_token_id = 0
    for name in ("fastv", "entropy"):
        with create(name, layer=2)(model) as pruner:
            want = model.generate(**one(), **GREEDY)
            sets = kept(pruner)
            got = model.generate(**one(), **GREEDY, assistant_model=assistant)
            assert torch.equal(got, want) and kept(pruner) == sets


def test_logits_to_keep_of_a_caller_is_no_draft(model):
    """A forward that asks for more logits still asks the last token."""
    with FastV()(model) as pruner:
        model(**one())
        sets = kept(pruner)
        out = model(**one(), logits_to_keep=4)
        assert out.logits.shape[1] == 4 and kept(pruner) == sets


# ---- E. images, tiles and runs of placeholders ---------------------------------------------------


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


# ---- F. families by what the model does ----------------------------------------------------------


def llava_of(text=None, vision=None, **options):
    """A LLaVA with another tower or language model."""
    plain = tiny_llava().config
    config = LlavaConfig(
        vision_config=vision or plain.vision_config, text_config=text or plain.text_config,
        image_token_index=IMAGE, image_seq_length=TOKENS, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    made = LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()
    for parameter in made.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, parameter.shape[-1] ** -0.5)
    made.generation_config.eos_token_id, made.generation_config.pad_token_id = None, 0
    return made


TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 5, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCABULARY, "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize("strategy", ["full", "default"])
@pytest.mark.parametrize("name", ["random", "fastv", "entropy", "selection"])
@pytest.mark.parametrize("keep", [0.5, 1.0])
def test_a_siglip_tower_has_no_class_token(strategy, name, keep):
    tower = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=5, num_attention_heads=4,
        image_size=PATCH * SIDE, patch_size=PATCH,
    )  # fmt: skip
    if strategy == "default":
        tower.image_size += PATCH  # 49 patches, of which LLaVA takes the first for a class token
        inputs = one() | {"pixel_values": torch.randn(1, 3, PATCH * 7, PATCH * 7)}
        tokens, ids = 48, one()["input_ids"][0].tolist()
        start = ids.index(IMAGE)
        inputs["input_ids"] = torch.tensor([ids[:start] + [IMAGE] * 12 + ids[start:]])
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    else:
        inputs, tokens = one(), TOKENS
    made = llava_of(Qwen2Config(**TEXT), tower, vision_feature_select_strategy=strategy,
                    vision_feature_layer=-1)  # fmt: skip
    plain = made.generate(**inputs, **GREEDY)
    with create(name, keep=keep)(made) as pruner:
        out = made.generate(**inputs, **GREEDY)
        assert [len(k) for k in pruner.kept] == [pruner.budget(tokens)]
    assert keep < 1 or torch.equal(out, plain)


def test_layers_with_a_window_are_refused_whatever_says_so():
    for text in (
        MistralConfig(**TEXT, sliding_window=8),
        Qwen2Config(**TEXT, sliding_window=8, use_sliding_window=True, max_window_layers=2),
    ):
        with pytest.raises(TypeError, match="do not attend to the whole sequence"):
            create("random")(llava_of(text))
    for text in (MistralConfig(**TEXT, sliding_window=None), Qwen2Config(**TEXT)):
        made = llava_of(text)
        with create("fastv")(made):
            made(**one())


@pytest.mark.parametrize("name", available())
def test_wrapped_and_bare_models(model, name):
    peft = pytest.importorskip("peft")
    with create(name)(model) as pruner:
        want = model(**one()).logits
        sets = kept(pruner)
    bare = model.model
    with create(name)(bare) as pruner:
        hidden = bare(**one()).last_hidden_state
        assert kept(pruner) == sets
    torch.testing.assert_close(model.lm_head(hidden), want)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
        wrapped = peft.get_peft_model(tiny_llava(), config).eval()
    with create(name)(wrapped) as pruner:
        torch.testing.assert_close(wrapped(**one()).logits, want)  # LoRA starts as the identity
        assert kept(pruner) == sets
        wrapped.generate(**one(), **GREEDY)


def test_what_is_no_model_is_named():
    for thing in (torch.nn.Linear(2, 2), "llava", None):
        with pytest.raises(TypeError, match=r"supported: .*LLaVA \('llava'\)"):
            create("random")(thing)


# ---- G. objects whose identity changes -----------------------------------------------------------


def test_a_copy_made_in_the_block_is_refused(model, tmp_path):
    with create("fastv")(model):
        with pytest.raises(RuntimeError, match="cannot be copied or saved as an object inside"):
            copy.deepcopy(model)
        with pytest.raises(RuntimeError, match="cannot be copied or saved"):
            torch.save(model, tmp_path / "model.pt")
        torch.save(model.state_dict(), tmp_path / "weights.pt")
    twin = copy.deepcopy(model)
    assert torch.equal(twin(**one()).logits, model(**one()).logits)


def test_gradient_checkpointing_is_refused_and_training_without_it_works():
    model = tiny_llava().train()
    inputs = one() | {"labels": one()["input_ids"]}
    with torch.enable_grad(), create("fastv", mode="mask")(model):
        model(**inputs).loss.backward()
    grad = model.model.language_model.layers[0].mlp.up_proj.weight.grad
    assert grad is not None and grad.isfinite().all()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with (
        torch.enable_grad(),
        create("fastv", mode="mask")(model),
        pytest.raises(RuntimeError, match="gradient_checkpointing_disable"),
    ):
        model(**inputs)
    model.gradient_checkpointing_disable()

    def whole(embeds):
        inputs = one() | {"inputs_embeds": embeds, "input_ids": None}
        return model(**inputs, use_cache=False).logits

    embeds = model.get_input_embeddings()(one()["input_ids"]).detach().requires_grad_()
    layer = model.model.language_model.layers[3]
    original = layer.forward

    def checkpointed(*args, **kwargs):
        return torch.utils.checkpoint.checkpoint(original, *args, **kwargs, use_reentrant=False)

    layer.forward = checkpointed  # below the hooks: computed again without them
    with torch.enable_grad(), create("fastv", mode="mask")(model):
        whole(embeds).sum().backward()
    assert embeds.grad.isfinite().all()


# ---- H. promises are compared --------------------------------------------------------------------


class Above(VisualPruner):
    """README's kind of method, with a count of its own."""

    threshold = 0.0

    def select(self, images):
        return images.hidden.float().norm(dim=-1) >= self.threshold


class HonestlyAbove(Above):
    exact = False


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_another_count_than_promised_is_named(model, share):
    features = model.model.get_image_features(one()["pixel_values"]).pooler_output[0]
    threshold = features.norm(dim=-1).quantile(share).item()
    pruner, honest = Above(), HonestlyAbove()
    pruner.threshold = honest.threshold = threshold
    with pruner(model), pytest.raises(ValueError, match=r"promises budget\(36\) = 18 .* exact"):
        model(**one())
    with honest(model):
        got = model(**one()).logits
    with FixedPrune(indices=kept(honest))(model):
        torch.testing.assert_close(got, model(**one()).logits)


def test_chosen_tokens_with_another_count_or_shape_are_named(model):
    class Odd(VisualPruner):
        answer = None

        def select(self, images):
            return self.answer

    for answer, message in [
        (Chosen(torch.arange(9)[None]), "promises budget"),
        (Chosen(torch.arange(18.0)[None]), "int64 indices"),
        (Chosen(torch.arange(18)), "int64 indices"),
        (Chosen(torch.arange(18)[None], torch.zeros(1, 9, 32)), "states"),
        (torch.ones(1, 36), "must return bool"),
        ([1, 2], "must return bool"),
    ]:
        pruner = Odd()
        pruner.answer = answer
        with pruner(model), pytest.raises(ValueError, match=message):
            model(**one())


def test_a_method_that_keeps_nothing_is_named(model):
    class Nothing(VisualPruner):
        exact = False

        def select(self, images):
            return torch.zeros_like(images.columns, dtype=torch.bool)

    with Nothing()(model), pytest.raises(ValueError, match="keeps nothing of image 0"):
        model(**one())


@pytest.mark.parametrize("name", available())
def test_options_cannot_change_inside_the_block(model, name):
    pruner = create(name)
    pruner.keep = 0.25
    with pruner(model):
        for option, value in pruner.options().items():
            if option != "method":
                with pytest.raises(RuntimeError, match=f"{option} cannot change inside"):
                    setattr(pruner, option, value)
        model(**one())
        assert len(pruner.kept[0]) == pruner.budget(TOKENS)
    pruner.keep = 0.5


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_features_name_their_image(model, name, bad):
    inputs = ragged()
    inputs["pixel_values"][2, 0, 5, 5] = bad
    with create(name)(model), pytest.raises(ValueError, match="image 2 hold NaN or infinite"):
        model(**inputs)


# ---- merged tokens, their order, and positions ---------------------------------------------------


class Merging(VisualPruner):
    """Keeps every second token, in reversed order, each the mean of two."""

    reorders = True

    def select(self, images):
        hidden = images.hidden
        index = torch.arange(0, images.tokens, 2).flip(0).expand(images.count, -1)
        return Chosen(index, (hidden[:, 0::2] + hidden[:, 1::2]).flip(1) / 2)


@pytest.mark.parametrize("layer", [0, 2])
def test_merged_and_reordered_tokens_enter_as_chosen(model, layer):
    inputs, seen = ragged(), {}
    block = model.model.language_model.layers[layer]
    handle = block.register_forward_pre_hook(
        lambda m, args, kwargs: seen.update(before=args[0]), with_kwargs=True
    )
    with Merging(layer=layer)(model):
        after = block.register_forward_pre_hook(
            lambda m, args, kwargs: seen.update(after=args[0], **kwargs), with_kwargs=True
        )
        model(**inputs)
        after.remove()
    handle.remove()
    ids, image = inputs["input_ids"], 0
    for row in range(3):
        columns = (ids[row] == IMAGE).nonzero().squeeze(1)
        shift = seen["before"].shape[1] - seen["after"].shape[1]
        gone = len(columns) // 2
        for block_of in columns.split(TOKENS):
            whole = seen["before"][row, block_of]
            want = ((whole[0::2] + whole[1::2]) / 2).flip(0)
            start = int(block_of[0]) - shift + gone - 18 * (image if row != 1 else 0) * 0
            start = int(block_of[0]) - shift + (gone - 18 * ((columns < block_of[0]).sum() // 36))
            torch.testing.assert_close(seen["after"][row, start : start + 18], want)
        image += len(columns) // TOKENS
    with pytest.raises(ValueError, match="changes the order of the tokens"):
        Merging(mode="mask")


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("mode", ["inplace", "mask"])
def test_contiguous_positions_are_those_of_a_prompt_without_the_dropped_tokens(model, layer, mode):
    """In the prefill, in decoding, and in a second turn, padded rows included."""
    inputs = ragged()
    indices = [[0, 5, 9], list(range(20)), [35], [3, 4, 30, 31]]
    features = list(model.model.get_image_features(inputs["pixel_values"]).pooler_output)
    masks = []
    for chosen in indices:
        mask = torch.zeros(TOKENS, dtype=torch.bool)
        mask[chosen] = True
        masks.append(mask)
    valid = inputs["attention_mask"]
    positions = (valid.cumsum(1) - 1).clamp(min=0)
    options = {"indices": indices, "layer": layer, "mode": mode, "positions": "contiguous"}
    with FixedPrune(**options)(model):
        out = model(**inputs, position_ids=positions, use_cache=True)
        cache, logits = release.cache_of(out), [out.logits[:, -1]]
        for step in range(2):
            valid = torch.cat([valid, torch.ones(3, 1, dtype=torch.int64)], 1)
            positions = positions[:, -1:] + 1
            out = model(
                input_ids=torch.full((3, 1), 7 + step), attention_mask=valid,
                position_ids=positions, past_key_values=cache, use_cache=True,
            )  # fmt: skip
            logits.append(out.logits[:, -1])
    first = 0
    for row, count in enumerate([1, 2, 1]):
        real = inputs["attention_mask"][row] > 0
        ids = torch.cat([inputs["input_ids"][row, real], torch.tensor([7, 8])])[None]
        own, sets = features[first : first + count], masks[first : first + count]
        want = two_speeds(model, ids, own, sets, layer)
        for step in range(3):
            torch.testing.assert_close(logits[step][row], want[0, step - 3], atol=1e-4, rtol=1e-4)
        first += count


def two_speeds(model, ids, features, masks, layer):
    """The oracle with one numbering before `layer` and a closed-up one from it on."""
    language = model.model.language_model
    states = language.embed_tokens(ids)
    image = ids == IMAGE
    states[image] = torch.cat(features)
    stay = torch.ones_like(image)
    stay[image] = torch.cat(masks)
    length = ids.shape[1]
    plain = torch.arange(length)[None]
    closed = (stay.long().cumsum(1) - 1).clamp(min=0)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    for index, block in enumerate(language.layers):
        late = index >= layer
        mask = causal & stay[:, None] if late else causal[None]
        mask = mask | torch.eye(length, dtype=torch.bool)
        rotary = language.rotary_emb(states, closed if late else plain)
        states = block(states, attention_mask=mask[:, None], position_embeddings=rotary)
    return model.lm_head(language.norm(states))


class Twice(VisualPruner):
    """Two stages: half before layer 1, half of these before layer 3."""

    def stages(self):
        return (1, 3)

    def select(self, images):
        scores = images.hidden.float().norm(dim=-1)
        best = scores.topk(images.tokens // 2, dim=1).indices.sort(dim=1).values
        return Chosen(best)


@pytest.mark.parametrize("mode", ["inplace", "mask"])
def test_several_stages(model, mode):
    """Each stage sees what the one before left; caches shorten twice; cache or not, one result."""
    inputs = ragged()
    with Twice(mode=mode)(model) as pruner:
        with_cache = model.generate(**inputs, **GREEDY)
        sets = kept(pruner)
        assert torch.equal(model.generate(**inputs, **GREEDY, use_cache=False), with_cache)
        cache = release.cache_of(model(**one(), use_cache=True))
        held = [layer.get_seq_length() for layer in cache.layers]
        assert held == ([46, 28, 28, 19, 19] if mode == "inplace" else [46] * 5)
        assert cache.get_seq_length() == 46
        cache.crop(-46 + 10)
        assert cache.get_seq_length() == 10
    assert [len(k) for k in sets] == [9] * 4
    with Twice(mode="mask" if mode == "inplace" else "inplace")(model) as other:
        assert torch.equal(model.generate(**inputs, **GREEDY), with_cache)
        assert kept(other) == sets


# ---- the release ---------------------------------------------------------------------------------


def test_a_layer_called_in_an_unknown_way_is_refused(model, monkeypatch):
    kind = type(model.model.language_model.layers[0])

    def forward(self, states, mask=None, keys=None):
        return states

    monkeypatch.setattr(kind, "forward", forward)
    with (
        pytest.raises(release.UnknownRelease, match=r"is tested with"),
        create("random")(model),
    ):
        pass


def test_hooks_that_do_not_reach_the_layers_are_noticed(model, monkeypatch):
    """A cache of other lengths than the hooks asked for."""
    language = model.model.language_model
    original = language.layers[3].forward

    def longer(hidden, **kwargs):
        cache = release.given_cache(kwargs)
        out = original(hidden, **kwargs)
        layer = cache.layers[3]
        layer.keys = torch.cat([layer.keys, layer.keys[:, :, :1]], 2)
        return out

    monkeypatch.setattr(language.layers[3], "forward", longer)
    with (
        create("random")(model),
        pytest.raises(release.UnknownRelease, match=r"holds .* positions by layer instead of"),
    ):
        model(**one(), use_cache=True)


def test_an_untested_release_warns_once():
    release._warn_if_untested.cache_clear()
    with pytest.warns(UserWarning, match=r"transformers 9\.1\.0 is untested"):
        release._warn_if_untested("9.1.0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        release._warn_if_untested("9.1.0")
        release._warn_if_untested("5.20.1")


def test_random_prune_draws_the_same_for_an_image_in_any_batch_of_tiles(next_model):
    inputs, _ = next_inputs(next_model, [[42, 84], [42, 84]])
    with RandomPrune(keep=0.25)(next_model) as pruner:
        next_model(**inputs)
        assert kept(pruner)[0] != kept(pruner)[1]
