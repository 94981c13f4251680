"""What methods read of the towers: states and attention of exactly the patches of each token."""

import math

import pytest
import torch
from transformers import (
    AttentionInterface,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PixtralVisionConfig,
)
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from lib.decoding import prefill
from lib.pruning import VisualPruner, create
from lib.pruning.engine import tower
from lib.pruning.engine.release import cache_of
from lib.pruning.families import resolve
from tests.pruning.families.tiny import ALL, LLAVA, MORE, ONEVISION, SMOLVLM, Picture

kinds = [(name, "ragged") for name in [*ALL, *MORE]]
kinds += [(name, "video") for name, tiny in ALL.items() if tiny.video]


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def family(name):
    return (ALL | MORE)[name]


class Peek(VisualPruner):
    """Keeps everything and notes what `look` sees of each image."""

    look = None
    keeps_all = False
    exact = False

    def attach(self, model):
        self.seen = {}
        last = self.family.feature_layer()
        tower.watch_hidden(self, range(last + 1))
        self.blocks = [
            tower.watch_projections(self, block) for block in range(len(self.family.blocks()))
        ]

    def select(self, images):
        for ordinal, found in zip(images.ordinals, type(self).look(self, images)):
            self.seen[ordinal] = found
        return torch.ones_like(images.columns, dtype=torch.bool)


def seen(model, inputs, look):
    kind = type("Look", (Peek,), {"look": staticmethod(look)})
    with kind()(model) as pruner:
        model(**inputs)
        return [pruner.seen[key] for key in sorted(pruner.seen)]


def identity(module, tokens):
    module.forward = lambda *args, **kwargs: tokens(args[0] if args else kwargs["hidden_states"])


def read_states(model):
    """Replace the projector by the mean of the patches it reads, and norms in front by nothing."""
    inner, width = model.model, 32
    parts = resolve(model)
    if parts.model_type.startswith("qwen"):
        identity(inner.visual.merger, lambda x: x.view(-1, 4, width).mean(1))
    elif parts.model_type in ("internvl", "smolvlm", "idefics3"):
        projector = getattr(inner, "multi_modal_projector", None)
        projector = projector or inner.connector.modality_projection
        identity(projector, lambda x: x.unflatten(-1, (-1, width)).mean(-2))
        if hasattr(inner, "connector"):
            identity(inner.vision_model.post_layernorm, lambda x: x.contiguous())
    else:
        identity(inner.multi_modal_projector, lambda x: x)


def pooled(model, inputs, kind):
    """The features of `get_*_features`, cut into the parts with a budget."""
    names = ("image_sizes", "image_grid_thw", "video_grid_thw")
    own = [name for name in names if name in inputs and not name.startswith("video")]
    pixels = "pixel_values"
    if kind == "video":
        own, pixels = [name for name in names if name in inputs], "pixel_values_videos"
    more = {name: inputs[name] for name in own}
    call = model.model.get_video_features if kind == "video" else model.model.get_image_features
    features = call(inputs[pixels], **more, return_dict=True).pooler_output
    return torch.cat([one.flatten(0, -2) for one in features])


@pytest.mark.parametrize("name, kind", kinds)
def test_states_are_those_of_the_patches_that_the_projector_reads(name, kind):
    """A projector that only averages shows them: packing, windows, shuffles, pools."""
    tiny = family(name)
    model, inputs = tiny.model(), tiny.inputs(kind)
    read_states(model)
    states = seen(model, inputs, last_states)
    apart = seen(model, inputs, lambda self, images: separated(images, self.family))
    want = pooled(model, inputs, kind)
    lengths = tiny.lengths(kind)
    if len(want) < sum(lengths):  # up to 5.17 the newline is put behind a video later
        frames = [n - int(lonely.sum()) for n, lonely in zip(lengths, apart)]
    else:
        frames = lengths
    for own, lonely, features in zip(states, apart, want.split(frames)):
        if len(features) == len(own):
            features = features[~lonely]
        torch.testing.assert_close(own[~lonely], features, atol=1e-5, rtol=1e-4)


def last_states(pruner, images):
    return tower.hidden_states(images, pruner.family, pruner.family.feature_layer())


def separated(images, family):
    found = tower.separators(images, family)
    return torch.zeros_like(images.columns, dtype=torch.bool) if found is None else found


@pytest.mark.parametrize("name, kind", kinds)
def test_layouts_say_of_every_token_what_it_is_made_of(name, kind):
    """A separator of nothing and of no tile, any other token of patches whose shares add up."""
    tiny = family(name)
    layouts = seen(
        tiny.model(), tiny.inputs(kind),
        lambda self, images: tower.layouts_at(images, self.family) or [None] * images.count,
    )  # fmt: skip
    if layouts[0] is None:
        assert name == "llava"
        return
    assert [len(one.source) for one in layouts] == tiny.lengths(kind)
    for source, grid, tiles, weights in layouts:
        lonely = source[:, 0] < 0
        assert (source[lonely] == -1).all() and (source[~lonely] >= 0).all()
        assert tiles.shape == lonely.shape and torch.equal(tiles == -1, lonely)
        assert (tiles[~lonely] >= 0).all()
        assert grid is None or math.prod(grid) == int((~lonely).sum())
        if weights is not None:
            assert weights.shape == source.shape
            torch.testing.assert_close(weights.sum(1), torch.ones(len(source)).double())
    shares = [one.weights for one in layouts if one.weights is not None]
    assert not shares or any(bool((own.amax(1) < 1).any()) for own in shares)  # mixed somewhere


def test_the_feature_layer_is_the_last_that_is_named():
    model = LLAVA.model()
    parts = resolve(model)
    depth = len(parts.blocks())
    for named, layers in (
        (-1, [depth]),
        (-2, [depth - 1]),
        (2, [2]),
        (0, [0]),
        ([1, -2], [1, depth - 1]),
        ([-1, 3, 2], [depth, 3, 2]),
    ):
        model.config.vision_feature_layer = named
        assert parts.feature_layer() == layers[-1]
        assert tower.feature_layers(parts) == layers


def test_newlines_are_separators():
    model, tiny = ONEVISION.model(), ONEVISION
    apart = seen(model, tiny.inputs("one"), lambda self, images: separated(images, self.family))
    ends = 36 + 13 * torch.arange(6) + 12  # behind a base tile of 36 tokens, six rows of twelve
    assert apart[0].nonzero().squeeze(1).tolist() == ends.tolist()
    apart = seen(model, tiny.inputs("video"), lambda self, images: separated(images, self.family))
    assert [own.nonzero().flatten().tolist() for own in apart] == [[], [], [9]] * 3


@pytest.mark.parametrize("size", [(80, 30), (33, 84), (84, 80), (20, 20)])
def test_images_that_were_padded(size):
    """What the model cuts off is no token; the rest keeps to its patches."""
    for name in ("llava_onevision", "llava_onevision shrunk", "llava_next"):
        tiny = family(name)
        model = tiny.model()
        read_states(model)
        picture = Picture("image", size, 3)
        made = tiny.collate([[picture]], None)
        want = pooled(model, made, "image")
        marker = model.config.image_token_id
        ids = torch.tensor([[1, *[marker] * len(want), 5]])
        inputs = made | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        (states,) = seen(model, inputs, last_states)
        (lonely,) = seen(model, inputs, lambda self, images: separated(images, self.family))
        assert 0 < int(lonely.sum()) < len(lonely)
        torch.testing.assert_close(states[~lonely], want[~lonely], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_words_are_rotated_by_their_place_in_every_family(name):
    """Also where positions have three rows: time, height and width of a word are one."""
    parts = resolve(family(name).model())
    places = torch.tensor([[0, 0, 1, 2, 3], [5, 6, 7, 9, 40]])
    cos, sin = parts.rotary(torch.zeros(*places.shape, 32), places)
    width = cos.shape[-1]
    turns = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = (places[..., None] * turns).repeat(1, 1, 2)
    torch.testing.assert_close(cos.double(), angles.cos(), atol=1e-5, rtol=0)
    torch.testing.assert_close(sin.double(), angles.sin(), atol=1e-5, rtol=0)


# ---- attention -----------------------------------------------------------------------------------

SPIED = []


def _spy(module, query, key, value, attention_mask, scaling, **kwargs):
    """Attention in float64 that keeps its weights."""
    logits = query.double() @ key.double().transpose(-1, -2) * scaling
    if attention_mask is not None:
        added = torch.zeros_like(attention_mask, dtype=torch.float64)
        masked = attention_mask.dtype == torch.bool
        logits = logits + (added.masked_fill(~attention_mask, -1e30) if masked else attention_mask)
    weights = logits.softmax(-1)
    SPIED.append((module, weights))
    return (weights @ value.double()).transpose(1, 2).contiguous().to(query.dtype), None


@pytest.fixture
def spy():
    AttentionInterface.register("spy", _spy)
    ALL_MASK_ATTENTION_FUNCTIONS.register("spy", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    SPIED.clear()
    yield
    SPIED.clear()


def watch_with_spy(model):
    tower_config = resolve(model).tower.config
    for module in resolve(model).tower.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = "spy"
    tower_config._attn_implementation = "spy"


def expected(parts, block, patches):
    """Per patch, mean over heads: from the class token, or the mean over the image's queries."""
    owner = parts.blocks()[block]
    own = [weights for module, weights in SPIED if module in set(owner.modules())]
    if parts.model_type.startswith("qwen"):  # one call a segment
        total = torch.cat([w[0].mean(0).sum(0) for w in own])
        sizes = torch.tensor(patches)
        return total / sizes.repeat_interleave(sizes)
    (weights,) = own
    weights = weights.mean(1)
    if parts.class_tokens:
        return weights[:, 0]
    return weights.mean(1)


@pytest.mark.parametrize("name, kind", kinds)
def test_attention_received_is_the_towers(spy, name, kind, monkeypatch):
    tiny = family(name)
    model, inputs = tiny.model(), tiny.inputs(kind)
    watch_with_spy(model)
    parts, got = resolve(model), {}
    monkeypatch.setattr("lib.pruning.engine.received.AT_ONCE", 20000)  # several chunks

    def look(self, images):
        record = images.vision
        for block, attention in enumerate(self.blocks):
            found = self.family.received(record, block, attention)
            got[block] = found.mean(-2)
            mapped = tower.received(images, self.family, attention, block)
            per_patch = tower.of_tokens(images, self.family, tower.patch_rows(parts, got[block]))
            torch.testing.assert_close(mapped, per_patch)
        got["patches"] = parts.rows_of_images(record)
        return images.columns

    with type("Look", (Peek,), {"look": staticmethod(look)})()(model):
        SPIED.clear()
        model(**inputs)
    for block in range(len(parts.blocks())):
        want = expected(parts, block, got["patches"])
        torch.testing.assert_close(got[block].double(), want, atol=1e-6, rtol=1e-4)
        assert float(got[block].std()) > 0


def test_padding_of_an_image_receives_no_attention():
    tiny = SMOLVLM
    model, inputs = tiny.model(), tiny.inputs("one")
    mask = torch.ones(1, 3, 32, 32, dtype=torch.bool)
    mask[:, :, 16:] = False  # the lower half of each tile
    inputs["pixel_attention_mask"] = mask
    found = seen(
        model, inputs, lambda self, images: tower.received(images, self.family, self.blocks[1], 1)
    )
    for own in found:
        assert float(own[:8].min()) > 0 and float(own[8:].max()) == 0


def test_images_of_any_shape_are_pruned_each_by_its_own_number():
    """Pixtral's tower has no table of positions, and as many patches as the shape asks for."""
    torch.manual_seed(0)
    vision = PixtralVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        image_size=64, patch_size=8,
    )  # fmt: skip
    language = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        vocab_size=96,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=language, image_token_index=90,
        vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config).eval()
    ids = torch.tensor([[1, 5, *[90] * 64, 7, *[90] * 32, 8]])
    inputs = {
        "input_ids": ids,
        "pixel_values": torch.randn(2, 3, 64, 64),
        "image_sizes": torch.tensor([[64, 64], [32, 64]]),
    }
    with torch.no_grad(), create("fastv", keep=0.5, layer=2)(model) as pruner:
        cache = cache_of(model(**inputs, use_cache=True))
    assert [(len(mask), int(mask.sum())) for mask in pruner.kept_masks] == [(64, 32), (32, 16)]
    assert [layer.get_seq_length() for layer in cache.layers] == [100] * 2 + [52] * 2
    assert prefill.refusal(resolve(model), None).endswith("differ in length")
