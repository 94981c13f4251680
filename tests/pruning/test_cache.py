"""The pruned cache keeps the Cache API's meaning in terms of the tokens the model was given."""

import copy
import inspect
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from transformers import DynamicCache
from transformers.cache_utils import Cache

from lib.pruning import PrunedCache, VisualPruner, create
from lib.pruning.engine.cache import Segment
from lib.pruning.engine.passes import Stage
from lib.pruning.engine.release import cache_of
from lib.pruning.engine.sequence import segment_after
from tests.pruning import oracle
from tests.tiny import IMAGE, TOKENS, one, pixels, prompt, tiny_llava

MODEL = tiny_llava()


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


class Told(VisualPruner):
    """Keeps what the test says, another set in every pass."""

    exact = False

    def __init__(self, **options):
        super().__init__(keep=0.5, **options)
        self.masks = []

    def select(self, images):
        return torch.stack([self.masks[ordinal] for ordinal in images.ordinals])


class Conversation:
    """A batch of two rows that grows turn by turn, and what the oracle makes of all of it."""

    def __init__(self, layer, mode, seed):
        self.layer, self.pruner = layer, Told(layer=layer, mode=mode)
        self.random = torch.Generator().manual_seed(seed)
        self.ids = torch.empty(2, 0, dtype=torch.int64)
        self.valid = torch.empty(2, 0, dtype=torch.bool)
        self.positions = torch.empty(2, 0, dtype=torch.int64)
        self.seen = torch.empty(2, 0, 0, dtype=torch.bool)
        self.features, self.kept = [[], []], [[], []]
        self.cache = None

    def draw(self, high, low=0):
        return int(torch.randint(low, high, (1,), generator=self.random))

    def turn(self, images, *, hide):
        """Both rows say something, left-padded, each with an image if `images`."""
        rows = []
        for _ in range(2):
            words = torch.randint(3, 80, (self.draw(6, 1),), generator=self.random).tolist()
            rows.append(([5, *[IMAGE] * TOKENS] if images else []) + words)
        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(r)) + r for r in rows])
        valid = torch.tensor([[False] * (longest - len(r)) + [True] * len(r) for r in rows])
        if hide and self.valid.shape[1]:  # the caller hides something that was visible before
            column = self.draw(self.valid.shape[1])
            self.valid = self.valid.clone()
            self.valid[:, column] = False
        given, before = {}, self.valid.shape[1]
        if images:
            given["pixel_values"] = pixels(2, seed=self.draw(1000))
            features = MODEL.model.get_image_features(given["pixel_values"]).pooler_output
            self.pruner.masks = []
            for row in range(2):
                mask = torch.rand(TOKENS, generator=self.random) < 0.3
                mask[self.draw(TOKENS)] = True
                self.pruner.masks.append(mask)
                self.features[row].append(features[row])
                self.kept[row].append(mask)
        start = self.positions.amax(1, keepdim=True) + 1 if before else torch.zeros(2, 1).long()
        positions = start + (valid.long().cumsum(1) - 1).clamp(min=0)
        self.ids = torch.cat([self.ids, ids], 1)
        self.valid = torch.cat([self.valid, valid], 1)
        self.positions = torch.cat([self.positions, positions], 1)
        length = self.ids.shape[1]
        seen = torch.zeros(2, length, length, dtype=torch.bool)
        seen[:, :before, :before] = self.seen
        seen[:, before:] = self.valid[:, None]
        self.seen = seen
        out = MODEL(
            input_ids=ids, attention_mask=self.valid.long(), position_ids=positions,
            past_key_values=self.cache, use_cache=True, **given,
        )  # fmt: skip
        self.cache = cache_of(out)
        return out.logits[:, -1]

    def crop(self, count):
        self.cache.crop(-count)
        left = self.ids.shape[1] - count
        for row in range(2):  # images that the crop cuts off altogether or in part
            images = int((self.ids[row, :left] == IMAGE).sum())
            self.features[row] = list(torch.cat(self.features[row])[:images].split(TOKENS))
            self.kept[row] = list(torch.cat(self.kept[row])[:images].split(TOKENS))
        self.ids, self.valid = self.ids[:, :left], self.valid[:, :left]
        self.positions, self.seen = self.positions[:, :left], self.seen[:, :left, :left]

    def expected(self):
        rows = [
            oracle.logits(
                MODEL, self.ids[r : r + 1], self.features[r], self.kept[r], layer=self.layer,
                visible=self.seen[r : r + 1], positions=self.positions[r : r + 1],
            )[0, -1]
            for r in range(2)
        ]  # fmt: skip
        return torch.stack(rows)


STEPS = st.lists(
    st.sampled_from(["text", "image", "hide", "crop", "crop deep", "beams"]), min_size=1, max_size=5
)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([0, 2]), st.sampled_from(["inplace", "mask"]), STEPS, st.integers(0, 999))
def test_any_conversation_equals_the_whole_sequence_at_once(layer, mode, steps, seed):
    """Padded turns with and without images, masks that change, crops into the image, swapped rows:
    the last logits are those of one pass over everything, dropped tokens hidden."""
    talk = Conversation(layer, mode, seed)
    with talk.pruner(MODEL):
        talk.turn(True, hide=False)
        for step in steps:
            if step.startswith("crop"):
                length = talk.ids.shape[1]
                deep = min(length - 1, 20) if step == "crop deep" else 2
                talk.crop(min(1 + talk.draw(deep), length - 1))
                assert talk.cache.get_seq_length() == talk.ids.shape[1]
            elif step == "beams":
                order = torch.tensor([1, 0])
                talk.cache.reorder_cache(order)
                for name in ("ids", "valid", "positions", "seen"):
                    setattr(talk, name, getattr(talk, name)[order])
                talk.features.reverse()
                talk.kept.reverse()
            got = talk.turn(step == "image", hide=step == "hide")
            torch.testing.assert_close(got, talk.expected(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layer", [0, 2])
def test_a_crop_before_the_image_leaves_the_prompt_in_front_of_it(layer):
    inputs, after = one(), torch.tensor([[21, 22, 23]])
    prefix = inputs["input_ids"][:, :5]
    want = MODEL(input_ids=torch.cat([prefix, after], 1)).logits[:, -1]
    with create("random", layer=layer)(MODEL):
        cache = cache_of(MODEL(**inputs, use_cache=True))
        cache.crop(5 - inputs["input_ids"].shape[1])
        assert [held.get_seq_length() for held in cache.layers] == [5] * 5
        assert cache.get_seq_length() == 5
        got = MODEL(input_ids=after, past_key_values=cache, use_cache=True).logits[:, -1]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("number", [1, 4])
def test_a_crop_by_a_positive_number_means_what_it_means_upstream(number):
    with create("random")(MODEL):
        cache = cache_of(MODEL(**one(), use_cache=True))
        plain = DynamicCache()
        plain.update(torch.zeros(1, 1, 6, 2), torch.zeros(1, 1, 6, 2), 0)
        try:
            plain.crop(number)
        except ValueError:
            with pytest.raises(ValueError, match=f"negative integer, got {number}"):
                cache.crop(number)
        else:
            cache.crop(number)
            assert cache.get_seq_length() == plain.get_seq_length() == number


def test_a_later_turn_appends_its_places_behind_those_of_earlier_ones():
    """The first token of a turn, whose column is 0, is no filling."""
    turn = SimpleNamespace(past=5, length=4, batch=2)
    columns = torch.tensor([[0, 2, 3], [-1, 0, 3]])
    stage = Stage(layer=2, columns=columns, held=4, filled=True)
    before = Segment(2, 5, torch.tensor([[0, 1, 4, 3], [-1, 0, 2, 4]]), True)
    for earlier, first in ((before, before.columns), (None, torch.arange(4).expand(2, -1))):
        found = segment_after(turn, stage, earlier, torch.device("cpu"))
        want = torch.cat([first, torch.tensor([[5, 7, 8], [-1, 5, 8]])], 1)
        assert torch.equal(found.columns, want)
        assert (found.layer, found.seen, found.filled, found.hidden) == (2, 9, True, None)


def test_a_size_to_crop_to_that_is_no_smaller_changes_nothing(monkeypatch):
    """Where a positive number is a size, as in older releases."""
    monkeypatch.setattr("lib.pruning.engine.cache.crops_to_a_size", lambda: True)
    with create("random")(MODEL):
        cache = cache_of(MODEL(**one(), use_cache=True))
        given = cache.get_seq_length()
        for size, left in ((given + 3, given), (given, given), (given - 2, given - 2), (4, 4)):
            cache.crop(size)
            assert cache.get_seq_length() == left


@pytest.mark.parametrize("layer", [0, 2])
def test_an_empty_one_takes_a_prompt_with_an_image(layer):
    with create("random", layer=layer)(MODEL):
        want = MODEL(**one(), use_cache=True)
        again, new = cache_of(MODEL(**one(seed=1), use_cache=True)), PrunedCache()
        again.reset()
        for cache in (again, new):
            found = MODEL(**one(), past_key_values=cache, use_cache=True).logits
            torch.testing.assert_close(found, want.logits, rtol=0, atol=0)


@pytest.mark.parametrize("further", [False, True])
def test_an_interrupt_leaves_no_cache_that_grows_behind_the_block(further):
    def interrupt(*_):
        raise KeyboardInterrupt

    with create("random")(MODEL):
        out = MODEL(**one(), use_cache=True)
        cache, step = cache_of(out), {"input_ids": torch.tensor([[5]])}
        handle = MODEL.model.language_model.layers[3].register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            MODEL(**step, past_key_values=cache)
        handle.remove()
        if further:
            MODEL(**one())
    with pytest.raises(RuntimeError, match="with-block that has ended"):
        MODEL(**step, past_key_values=cache)


def test_reset_makes_it_an_empty_cache():
    with create("random")(MODEL):
        cache = cache_of(MODEL(**one(), use_cache=True))
        cache.reset()
        assert cache.get_seq_length() == 0
        ids = torch.tensor([[1, 5, 6]])
        again = MODEL(input_ids=ids, past_key_values=cache, use_cache=True).logits
        torch.testing.assert_close(again, MODEL(input_ids=ids).logits)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_goes_its_own_way(copied):
    step = torch.tensor([[7]])
    with create("random", layer=2)(MODEL):
        cache = cache_of(MODEL(**one(), use_cache=True))
        mine = copy.deepcopy(cache)
        other = copied(cache)
        a = MODEL(input_ids=step, past_key_values=mine, use_cache=True).logits
        if copied is copy.deepcopy:
            other.crop(-3)
            assert cache.get_seq_length() == other.get_seq_length() + 3
        b = MODEL(input_ids=step, past_key_values=cache, use_cache=True).logits
        assert torch.equal(a, b)


@pytest.mark.parametrize("layer", [0, 2])
def test_repeating_and_selecting_rows_moves_the_masks_too(layer):
    """Ragged rows: what is filled in one row is a key in the other."""
    talk = Conversation(layer, "inplace", 3)
    with talk.pruner(MODEL):
        talk.turn(True, hide=False)
        cache, plain = copy.deepcopy(talk.cache), copy.deepcopy(talk.cache)
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([3, 0]))
        word = torch.tensor([[9], [9]])
        mask = torch.cat([talk.valid, torch.ones(2, 1, dtype=torch.bool)], 1).long()
        where = talk.positions[:, -1:] + 1
        options = {"input_ids": word, "use_cache": True}
        straight = MODEL(
            **options, attention_mask=mask, position_ids=where, past_key_values=plain
        ).logits
        turned = MODEL(
            **options, attention_mask=mask.flip(0), position_ids=where.flip(0),
            past_key_values=cache,
        ).logits  # fmt: skip
        torch.testing.assert_close(turned, straight.flip(0), atol=1e-5, rtol=1e-5)


def test_an_offloaded_cache_works():
    """On a CPU the cache stays where it is, but takes the same way through the code."""
    plain = MODEL.generate
    options = {"do_sample": False, "max_new_tokens": 4}
    with create("fastv")(MODEL):
        expected = plain(**one(), **options)
        cache = DynamicCache(offloading=False)
        assert torch.equal(plain(**one(), **options, past_key_values=cache), expected)
        assert isinstance(cache, PrunedCache) and len(list(cache)) == len(cache) == 5


def test_every_public_method_of_the_cache_is_accounted_for():
    """What a new release adds must be looked at: it is inherited as it is, or overridden."""
    unchanged = {
        "prefetch", "offload", "update_conv_state", "get_conv_state", "update_recurrent_state",
        "get_recurrent_state", "update_indexer", "early_initialization", "get_max_length",
        "get_max_cache_shape", "has_previous_state", "get_mask_sizes", "get_query_offset",
        "activate_past_recording", "is_recording_past", "batch_size", "max_batch_size",
        "max_cache_len", "is_compileable", "is_initialized", "is_croppable", "is_sliding",
        "is_linear", "is_dummy",
    }  # fmt: skip
    ours = set(vars(PrunedCache))
    public = {
        name
        for kind in (Cache, DynamicCache)
        for name, member in vars(kind).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    }
    assert public - ours <= unchanged


def test_a_pruned_cache_is_refused_outside_its_block_and_its_model():
    step = torch.tensor([[5]])
    with create("random")(MODEL):
        cache = cache_of(MODEL(**one(), use_cache=True))
        embedded = MODEL.get_input_embeddings()(step)
        language = MODEL.model.language_model
        with pytest.raises(RuntimeError, match="needs the model's own forward"):
            language(inputs_embeds=embedded, past_key_values=cache, use_cache=True)
        with pytest.raises(ValueError, match="covers 3 positions, but 46 are cached and 1 are new"):
            MODEL(input_ids=step, past_key_values=cache, attention_mask=torch.ones(1, 3))
    with pytest.raises(RuntimeError, match="with-block that has ended"):
        MODEL(input_ids=step, past_key_values=cache)


def test_two_prompts_of_one_conversation_by_generate():
    """generate counts on from the cache: a second turn with another image."""
    first, second = one(), prompt(before=2, after=3, seed=5)[1:]
    options = {"do_sample": False, "max_new_tokens": 3, "return_dict_in_generate": True}
    with create("fastv", layer=2)(MODEL) as pruner:
        out = MODEL.generate(**first, **options)
        ids = torch.cat([out.sequences, torch.tensor([second])], 1)
        again = MODEL(
            input_ids=ids[:, out.sequences.shape[1] - 1 :], pixel_values=pixels(1, seed=9),
            past_key_values=cache_of(out), use_cache=True,
        )  # fmt: skip
        assert len(pruner.kept) == 1 and again.logits.isfinite().all()
        assert cache_of(again).get_seq_length() == ids.shape[1]
