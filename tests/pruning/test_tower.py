"""What is read of a vision tower, against plain loops over a toy one and over patches."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lib.pruning.engine import tower
from lib.pruning.engine.hooks import Hooks
from lib.pruning.engine.images import ImageTokens
from lib.pruning.engine.passes import Pass
from lib.pruning.engine.vision import VisionRecord, attach
from lib.pruning.families import Layout


class Block(nn.Module):
    """Adds its number, as a tensor or at the head of a tuple."""

    def __init__(self, number, tuples):
        super().__init__()
        self.number, self.tuples = number, tuples

    def forward(self, hidden_states):
        out = hidden_states + self.number
        return (out, None) if self.tuples else out


class Toy(nn.Module):
    """Three blocks; `named` calls them by keyword, `memo` answers without running them."""

    def __init__(self, tuples=False, named=False):
        super().__init__()
        self.blocks = nn.ModuleList(Block(n, tuples) for n in (1, 10, 100))
        self.named, self.memo = named, None

    def forward(self, states):
        if self.memo is not None:
            return SimpleNamespace(hidden_states=self.memo)
        for block in self.blocks:
            states = block(hidden_states=states) if self.named else block(states)
            states = states[0] if isinstance(states, tuple) else states
        return SimpleNamespace(last_hidden_state=states)


def pruner_of(toy, record):
    family = SimpleNamespace(blocks=lambda: toy.blocks, tower=toy)
    return SimpleNamespace(family=family, hooks=Hooks(), _current=SimpleNamespace(record=record))


@pytest.mark.parametrize("tuples", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_hidden_states_are_what_enters_a_block_and_what_leaves_the_last(tuples, named):
    toy, record = Toy(tuples, named), VisionRecord()
    pruner = pruner_of(toy, record)
    tower.watch_hidden(pruner, [3, 0, 2, 2])
    toy(torch.zeros(2, 4, 3))
    found = {layer: states.unique().tolist() for layer, states in record.hidden.items()}
    assert found == {0: [0.0], 2: [11.0], 3: [111.0]}
    pruner._current.record = None  # nobody asks: nothing is kept
    record.hidden.clear()
    toy(torch.zeros(2, 4, 3))
    assert not record.hidden
    pruner._current.record = record
    pruner.hooks.close()
    toy(torch.zeros(2, 4, 3))
    assert not record.hidden


def test_a_tower_that_answers_from_a_memo_says_its_states_and_what_was_seen_stands():
    toy, record = Toy(), VisionRecord()
    pruner = pruner_of(toy, record)
    tower.watch_hidden(pruner, [0, 3])
    toy.memo = [torch.full((1, 2, 3), float(n)) for n in range(4)]
    record.hidden[0] = torch.ones(1, 2, 3)
    toy(torch.zeros(1, 2, 3))
    assert record.hidden[0].unique().tolist() == [1.0]
    assert record.hidden[3].unique().tolist() == [3.0]
    assert sorted(record.hidden) == [0, 3]


def images_of(record, count, encoded, tokens, **options):
    """`count` images of equal length in one prompt, of which the tower encoded `encoded`."""
    pass_ = Pass(count * tokens, 0, count, None, lengths=[tokens] * count, row_of=[*range(count)])
    pass_.encoded_images = encoded
    features = SimpleNamespace()
    attach(features, record)
    pass_.features = [("image", features)]
    rows, columns = torch.arange(count), torch.arange(tokens).expand(count, -1)
    return ImageTokens(rows, columns, [*range(count)], pass_, **options)


@pytest.mark.parametrize("more", [(), (5,), (2, 3)])
@pytest.mark.parametrize("patches", [1, 4])
@pytest.mark.parametrize("weighed", [False, True])
def test_the_patches_of_a_token_are_averaged_or_mixed_in_their_shares(more, patches, weighed):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 3, patches, *more, generator=generator).double()
    shares = torch.rand(2, 3, patches, generator=generator) if weighed else None
    found = tower.mixed(values, shares)
    assert found.shape == (2, 3, *more) and found.dtype == values.dtype
    for image in range(2):
        for token in range(3):
            own = [1 / patches] * patches
            if weighed and patches > 1:
                own = shares[image, token].tolist()
            want = sum(s * values[image, token, p] for p, s in enumerate(own))
            torch.testing.assert_close(found[image, token], want, rtol=1e-6, atol=1e-6)


def filled(source):
    """The rows of each token's patches; a separator has those before it, or the first behind."""
    rows, last = [], next(own for own in source if own[0] >= 0)
    for own in source:
        last = own if own[0] >= 0 else last
        rows.append(last)
    return rows


SOURCES = [
    [[0, 1], [2, 3], [-1, -1], [4, 5], [-1, -1]],
    [[-1, -1], [-1, -1], [6, 7], [0, 1], [2, 3]],
]


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("left", [None, [3, 0, 2]])
def test_a_value_a_patch_becomes_one_a_token_by_the_layouts(weighed, count, left):
    """Two layouts with separators, also of copies for beams, and behind an earlier stage."""
    shares = torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.0, 0.0], [0.1, 0.9], [0.0, 0.0]])
    layouts = [
        Layout(torch.tensor(own), None, torch.zeros(5).long(), shares if weighed else None)
        for own in SOURCES
    ]
    asked = []
    family = SimpleNamespace(layouts=lambda record: asked.append(record) or layouts)
    record = VisionRecord()
    origin = None if left is None else torch.tensor([left] * count)
    images = images_of(record, count, 2, 5, origin=origin)
    values = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))  # rows, patches, D
    flat = values.flatten(0, 1)
    found = tower.of_tokens(images, family, values)
    assert tower.separators(images, family).tolist() == [
        [SOURCES[image * 2 // count][token][0] < 0 for token in left or range(5)]
        for image in range(count)
    ]
    for image in range(count):
        source = SOURCES[image * 2 // count]
        rows = filled(source)
        for place, token in enumerate(left or range(5)):
            own = [0.5, 0.5]
            if weighed:
                own = shares[source.index(rows[token])].tolist()
            want = sum(s * flat[row] for s, row in zip(own, rows[token]))
            torch.testing.assert_close(found[image, place], want)
    assert asked == [record], "worked out once"


def test_without_layouts_a_patch_is_a_token_and_nothing_separates():
    family = SimpleNamespace(layouts=lambda record: None)
    images = images_of(VisionRecord(), 4, 2, 5)
    values = torch.randn(2, 5, 3)
    assert torch.equal(tower.of_tokens(images, family, values), values[[0, 0, 1, 1]])
    assert tower.separators(images, family) is None
    plain = Layout(torch.arange(5)[:, None], (1, 5), torch.zeros(5).long())
    family.layouts = lambda record: [plain, plain]  # layouts, but no separator: patch 0 is none
    assert tower.separators(images_of(VisionRecord(), 2, 2, 5), family) is None


@pytest.mark.parametrize("named, want", [
    ([-1, -2, 1, 0], [4, 3, 1, 0]), ([-2, 1], [3, 1]), ([2], [2]), (-2, [3]), (None, [4]),
])  # fmt: skip
def test_the_layers_of_the_features_are_counted_from_either_end(named, want):
    blocks = [object()] * 4
    one = 4 if named is None else 5 + named if isinstance(named, int) else None
    family = SimpleNamespace(
        config=SimpleNamespace(vision_feature_layer=named), blocks=lambda: blocks,
        feature_layer=lambda: one, patch_rows=lambda states: states[:, 1:],
    )  # fmt: skip
    assert tower.feature_layers(family) == want
    record = VisionRecord(hidden={n: torch.full((1, 3, 2), float(n)) for n in range(5)})
    states = tower.features(record, family)
    assert states.shape == (1, 2, 2 * len(want))
    assert states[0, 0, ::2].tolist() == want
    first = tower.features(record, family, first=True)
    assert first.shape == (1, 1, 2 * len(want)) and first[0, 0, ::2].tolist() == want


def test_attention_weights_are_the_softmax_of_every_head():
    generator = torch.Generator().manual_seed(3)
    queries, keys = torch.randn(2, 2, 3, 8, generator=generator)
    queries = queries[:, :2]
    attention = SimpleNamespace(heads=4, scale=0.6)
    found = tower.attention_weights(queries, keys, attention)
    assert found.shape == (2, 4, 2, 3)
    for row in range(2):
        for head in range(4):
            part = slice(2 * head, 2 * head + 2)
            for q in range(2):
                logits = [0.6 * float(queries[row, q, part] @ keys[row, k, part]) for k in range(3)]
                total = sum(map(math.exp, logits))
                want = torch.tensor([math.exp(one) / total for one in logits])
                torch.testing.assert_close(found[row, head, q], want)


def test_heads_are_averaged_or_added_and_each_is_worked_out_once():
    by_head = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(4))
    asked = []
    family = SimpleNamespace(received=lambda record, block, given: asked.append(block) or by_head)
    attention, record = SimpleNamespace(heads=3, scale=0.5), VisionRecord()
    for _ in range(2):
        mean = tower.attended(record, family, attention, 1)
        total = tower.attended(record, family, attention, 1, heads="sum")
        torch.testing.assert_close(mean, sum(by_head[:, head] for head in range(3)) / 3)
        torch.testing.assert_close(total, 3 * mean)
    assert asked == [1, 1]
    tower.attended(record, family, SimpleNamespace(heads=3, scale=0.7), 1)
    tower.attended(record, family, attention, 2)
    assert asked == [1, 1, 1, 2]
