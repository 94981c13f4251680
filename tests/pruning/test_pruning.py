"""Each method against an independent account of what it should do."""

import math

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from lib.pruning import EntropyPrune, FastV, FixedPrune, RandomPrune, SelectionPrune, ToMe, create
from lib.pruning.engine.vision import record_of
from lib.pruning.fastv import last_row
from lib.pruning.random_prune import mix
from lib.selection import STRATEGIES, hierarchical, token_level
from tests.tiny import IMAGE, TOKENS, batch, finish, one, prompt, ragged, tiny_llava


@pytest.fixture(scope="module")
def model():
    return tiny_llava()


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


# ---- FastV -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [1, 2, 4])
@pytest.mark.parametrize("use_cache", [True, False])
def test_fastv_ranks_by_the_attention_the_eager_model_reports(model, layer, use_cache):
    inputs = ragged()
    attentions = tiny_llava(attention="eager")(**inputs, output_attentions=True).attentions
    row = attentions[layer - 1].mean(1)[:, -1]
    expected = []
    for sample in range(3):
        columns = (inputs["input_ids"][sample] == IMAGE).nonzero().squeeze(1)
        for block in columns.split(TOKENS):
            expected.append(row[sample, block].topk(12).indices.sort().values.tolist())
    with FastV(keep=12 / TOKENS, layer=layer)(model) as pruner:
        model(**inputs, use_cache=use_cache)
    assert [k.tolist() for k in pruner.kept] == expected


def test_fastv_row_sums_to_one(model):
    seen = []

    class Watching(FastV):
        def score(self, images):
            seen.append(last_row(self._watch.taken(images.prefill), images.prefill))
            return super().score(images)

    with Watching(layer=2)(model):
        model(**ragged())
    torch.testing.assert_close(seen[0].sum(1), torch.ones(3))


def test_fastv_before_the_first_layer_draws_what_random_draws(model):
    """Nothing has been attended to yet; one seed, one draw, given or left out."""
    for seed in ({}, {"seed": 0}, {"seed": 5}):
        kept = []
        for kind in (FastV, RandomPrune):
            with kind(keep=0.5, layer=0, **seed)(model) as pruner:
                model(**ragged())
            kept.append([own.tolist() for own in pruner.kept])
        assert kept[0] == kept[1]
        if not seed:
            default = kept[0]
        assert (kept[0] == default) == (seed != {"seed": 5})


# ---- Random ------------------------------------------------------------------------------------


def test_random_is_uniform_and_differs_between_images_and_seeds(model):
    inputs = batch([prompt(before=1, after=1)] * 200, 200)
    with RandomPrune(keep=0.5, seed=3)(model) as pruner:
        model(**inputs)
        masks = torch.stack(pruner.kept_masks).double()
    frequency = masks.mean(0)
    assert (frequency - 0.5).abs().max() < 4.5 * 0.5 / math.sqrt(200)
    assert len({tuple(m.tolist()) for m in masks}) == 200
    pairs = (masks[:, :-1] * masks[:, 1:]).mean()  # neighbours are not drawn together
    assert abs(pairs - 0.5 * 17 / 35) < 0.02
    with RandomPrune(keep=0.5, seed=4)(model) as other:
        model(**inputs)
    assert not torch.equal(masks, torch.stack(other.kept_masks).double())


def test_random_follows_image_keys_when_given(model):
    a, b = one(seed=0), one(seed=1)
    with RandomPrune()(model) as pruner:
        pruner.image_keys = torch.tensor([42])
        model(**a)
        first = pruner.kept[0].tolist()
        model(**b)
        assert pruner.kept[0].tolist() == first
        pruner.image_keys = torch.tensor([43])
        model(**b)
        assert pruner.kept[0].tolist() != first


def test_mix_is_splitmix64():
    """First outputs of the published generator for seed 0 (https://prng.di.unimi.it/splitmix64.c):
    its state advances by the golden gamma, which `mix` adds itself."""
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    gamma = -7046029254386353131
    states = torch.tensor([0, gamma, 2 * gamma + 2**64])
    assert [value % 2**64 for value in mix(states).tolist()] == expected


# ---- ToMe --------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [32, 64])  # narrower and wider than there are tokens
def test_proportional_attention_over_merged_copies_is_exact(monkeypatch, width):
    """Where the first block merges identical tokens, all later blocks must go on as if both
    copies were still there: the reference is the unmerged tower."""
    monkeypatch.setattr("lib.pruning.tome.schedule", lambda *_: [18, 0, 0, 0])
    config = tiny_llava().config
    config.vision_config.hidden_size = width
    flat = finish(LlavaForConditionalGeneration, config)
    flat.model.vision_tower.embeddings.position_embedding.weight.zero_()
    tower = flat.model.vision_tower
    # patches are identical in pairs: columns 0 and 1, 2 and 3, 4 and 5
    pixel_values = torch.randn(1, 3, 6, 3).repeat_interleave(7, 2).repeat_interleave(14, 3)
    plain = tower(pixel_values, output_hidden_states=True).hidden_states[-2][:, 1:]
    with ToMe(keep=0.5)(flat):
        assert torch.equal(
            tower(pixel_values, output_hidden_states=True).hidden_states[-2][:, 1:], plain
        )
        features = flat.model.get_image_features(pixel_values, output_hidden_states=True)
        merged, state = features.hidden_states[-2][:, 1:], record_of(features).extra["tome"]
    assert state.sizes[0].tolist() == [1] + [2] * 18
    torch.testing.assert_close(
        merged[0], plain[0, state.positions[0, 1:] - 1], atol=1e-5, rtol=1e-5
    )


def test_tome_feeds_merged_tokens_in_raster_order(model):
    """The language model gets, at each kept position, the projected merged token of it."""
    seen = {}
    first = model.model.language_model.layers[0]
    with ToMe(keep=0.5)(model) as pruner:
        handle = first.register_forward_pre_hook(lambda m, args: seen.update(x=args[0]))
        model(**one())
        handle.remove()
        features = model.model.get_image_features(one()["pixel_values"]).pooler_output[0]
    kept = pruner.kept[0]
    assert len(kept) == 18 and torch.equal(kept, kept.sort().values)
    assert (features[kept].norm(dim=-1) > 0).all()
    dropped = torch.tensor(sorted(set(range(TOKENS)) - set(kept.tolist())))
    assert (features[dropped] == 0).all()
    begin = one()["input_ids"][0].tolist().index(IMAGE)
    torch.testing.assert_close(seen["x"][0, begin : begin + 18], features[kept])


def test_tome_refuses_what_it_cannot_do(model):
    with pytest.raises(ValueError, match="layer is 0, not 2"):
        ToMe(layer=2)
    with pytest.raises(TypeError, match="patches only"), ToMe()(tiny_llava(strategy="full")):
        pass


# ---- Entropy-Prune -----------------------------------------------------------------------------


def vision_states(model, inputs, first, last):
    states = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True)
    return [s[:, 1:] for s in states.hidden_states[first : last + 1]]


def as_lists(mask):
    return [row.nonzero().squeeze(1).tolist() for row in mask]


@pytest.mark.parametrize("count", ["exact", "adaptive"])
def test_entropy_prune_is_algorithm_1_on_the_vision_tower(model, count):
    inputs = ragged()
    layers = vision_states(model, inputs, 1, 4)
    # 36 tokens, 18 of them kept: t_pc = ceil(18 / (36 // 8)), k_c = 18 // 5
    expected = hierarchical(
        layers[-1], 6, 3, 5, layers=layers, budget=18 if count == "exact" else "adaptive"
    )
    with EntropyPrune(keep=0.5, count=count)(model) as pruner:
        model(**inputs)
    assert [k.tolist() for k in pruner.kept] == as_lists(expected.mask)


def test_entropy_prune_at_token_level_and_with_the_papers_clusters(model):
    inputs = ragged()
    layers = vision_states(model, inputs, 4, 4)
    with EntropyPrune(keep=0.25, level="token", layers=(-2, -2))(model) as pruner:
        model(**inputs)
    assert [k.tolist() for k in pruner.kept] == as_lists(token_level(layers[0], 9))
    paper = {"n_clusters": 12, "core_clusters": 6, "tokens_per_cluster": 2}
    with EntropyPrune(layers=(4, 4), count="adaptive", **paper)(model) as pruner:
        model(**inputs)
    expected = hierarchical(layers[0], 12, 6, 2).mask
    assert [k.tolist() for k in pruner.kept] == as_lists(expected)
    assert all(len(k) <= 12 for k in pruner.kept)


def test_an_image_with_fewer_tokens_than_clusters_has_as_many_clusters(model):
    """36 tokens: each is a cluster of its own, and the core clusters are single tokens."""
    inputs = one()
    (tokens,) = vision_states(model, inputs, 4, 4)
    large = {"n_clusters": 50, "core_clusters": 20, "tokens_per_cluster": 2}
    with EntropyPrune(layers=(4, 4), count="adaptive", **large)(model) as pruner:
        model(**inputs)
    assert [k.tolist() for k in pruner.kept] == as_lists(hierarchical(tokens, 36, 20, 2).mask)
    assert len(pruner.kept[0]) == 20


def test_entropy_prune_on_language_layers(model):
    inputs = one()
    states = model(**inputs, output_hidden_states=True).hidden_states
    where = inputs["input_ids"][0] == IMAGE
    layers = [states[i][:, where] for i in (1, 2)]
    expected = hierarchical(layers[-1], 6, 3, 5, layers=layers, budget=18).mask
    with EntropyPrune(source="language", layer=2, layers=(1, 2))(model) as pruner:
        model(**inputs)
    assert [k.tolist() for k in pruner.kept] == as_lists(expected)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"source": "audio"}, ValueError, "source must be one of"),
        ({"level": "patch"}, ValueError, "level must be one of"),
        ({"count": "half"}, ValueError, "count must be one of"),
        ({"level": "token", "count": "adaptive"}, ValueError, "no adaptive count"),
        ({"tokens_per_cluster": 0}, ValueError, "tokens_per_cluster must be >= 1, got 0"),
        ({"layers": (3, 2)}, ValueError, r"layers \(3, 2\) must name l1 <= l2 among 6"),
        ({"layers": (0, 6)}, ValueError, "must name l1 <= l2"),
        ({"source": "language", "layers": (0, 1)}, ValueError, "exist before pruning"),
        ({"n_clusters": 4, "core_clusters": 9}, ValueError, "9"),
    ],
)
def test_entropy_prune_refuses_bad_options(model, options, error, message):
    with pytest.raises(error, match=message), EntropyPrune(**options)(model):
        model(**one())


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_selection_prune_is_the_strategy_on_the_feature_layer(model, strategy):
    inputs = ragged()
    (tokens,) = vision_states(model, inputs, 4, 4)
    with SelectionPrune(keep=0.25, strategy=strategy)(model) as pruner:
        model(**inputs)
    assert [k.tolist() for k in pruner.kept] == as_lists(STRATEGIES[strategy](tokens, 9))
    with pytest.raises(ValueError, match="strategy must be one of"):
        SelectionPrune(strategy="best")


# ---- a fixed set, and adding a method ----------------------------------------------------------


def test_fixed_prune_checks_its_indices(model):
    for indices, message in [
        ([], "has 1 images, but 0 are given"),
        ([[0], [1], [2]], "but 3 are given"),
        ([[TOKENS]], "must lie in 0..35"),
        ([[0, TOKENS]], "must lie in 0..35"),
        ([[-1, 3]], "must lie in 0..35"),
        ([[]], "not be empty"),
    ]:
        with pytest.raises(ValueError, match=message), FixedPrune(indices=indices)(model):
            model(**one())


def test_fixed_prune_keeps_the_first_and_the_last_and_is_itself_alone(model):
    first, second = (FixedPrune(indices=[[0, TOKENS - 1]]) for _ in range(2))
    assert first != second and len({first, second}) == 2
    with first(model):
        model(**one())
    assert first.kept[0].tolist() == [0, TOKENS - 1]


def test_a_selector_with_the_wrong_shape_is_named(model):
    class Wrong(RandomPrune):
        def select(self, images):
            return super().select(images)[:, 1:]

    with (
        pytest.raises(ValueError, match=r"Wrong.select must return bool \(1, 36\)"),
        Wrong()(model),
    ):
        model(**one())


def test_two_methods_cannot_share_a_name():
    with pytest.raises(ValueError, match="a pruning method named 'fastv' exists"):

        class Mine(RandomPrune, name="fastv"):
            pass

    assert type(create("fastv")) is FastV
