"""Where the images of a prompt are found, and what is read of them, against plain loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.pruning.engine.images import ImageTokens, grouped, in_reading_order, locate
from lib.pruning.engine.passes import Pass, Stage

#: rows of images, each so many tokens long; a word before and behind each image, or none
layouts = st.lists(
    st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=3), min_size=1, max_size=4
).filter(lambda rows: any(rows))


def written(rows):
    """The mask of a batch padded on the left, the lengths, and row and columns of each image."""
    lines, lengths, found = [], [], []
    for images in rows:
        line = [False]
        for length, word in images:
            line += [True] * length + [False] * word
            lengths.append(length)
        lines.append(line)
    width = max(map(len, lines))
    mask = torch.tensor([[False] * (width - len(line)) + line for line in lines])
    for number, images in enumerate(rows):
        columns = mask[number].nonzero().squeeze(1).tolist()
        for length, _ in images:
            found.append((number, columns[:length]))
            columns = columns[length:]
    return mask, lengths, found


@settings(deadline=None)
@given(layouts)
def test_images_are_found_in_reading_order(rows):
    mask, lengths, found = written(rows)
    own, columns, row_of = locate(mask, lengths, None)
    assert row_of == [row for row, _ in found]
    assert columns.tolist() == [place for _, places in found for place in places]
    assert own.tolist() == [row for row, places in found for _ in places]
    pass_ = Pass(mask.shape[1], 0, len(rows), None, lengths=lengths, row_of=row_of)
    groups = grouped(own, columns, lengths, pass_)
    assert [group.tokens for group in groups] == sorted(set(lengths))
    seen = []
    for group in groups:
        assert group.count == lengths.count(group.tokens) == len(group.ordinals)
        assert group.total == group.tokens and group.prefill is pass_
        for ordinal, row, places in zip(group.ordinals, group.rows, group.columns):
            assert found[ordinal] == (int(row), places.tolist())
            seen.append(ordinal)
    assert sorted(seen) == [*range(len(lengths))]


class Elsewhere:
    """A mask as if it lay on another device, whose numbers are not read back."""

    device = torch.device("meta")

    def __init__(self, mask):
        self.mask, self.shape = mask, mask.shape

    def flatten(self):
        return self.mask.flatten()


@pytest.mark.parametrize("each", [1, 2, 3])
def test_where_every_row_has_as_many_images_nothing_is_read_back(each):
    rows = [[(1 + (row + n) % 3, n % 2 == 0) for n in range(each)] for row in range(3)]
    mask, lengths, found = written(rows)
    own, columns, row_of = locate(Elsewhere(mask), lengths, each)
    here = locate(mask, lengths, each)
    assert torch.equal(own, here[0]) and torch.equal(columns, here[1])
    assert row_of == here[2] == [row for row, _ in found]
    assert columns.tolist() == [place for _, places in found for place in places]


def test_the_order_of_a_long_prompt_is_kept_elsewhere():
    mask = torch.rand(2, 5000, generator=torch.Generator().manual_seed(0)) < 0.5
    lengths = mask.sum(1).tolist()
    own, columns, row_of = locate(Elsewhere(mask), lengths, 1)
    assert torch.equal(torch.stack([own, columns], 1), mask.nonzero()) and row_of == [0, 1]


def test_the_answer_goes_where_it_is_wanted():
    mask = torch.tensor([[False, True, True, False]])
    rows, columns, row_of = locate(mask, [2], None, torch.device("meta"))
    assert rows.device.type == columns.device.type == "meta" and len(rows) == 2 and row_of == [0]
    assert locate(mask, [2], None)[1].tolist() == [1, 2]


@pytest.mark.parametrize("each", [None, 1, 2])
def test_another_number_of_placeholders_is_named_whatever_is_known_of_the_rows(each):
    mask, _, _ = written([[(3, True)], [(3, True)]])
    with pytest.raises(ValueError, match=r"holds 6 image tokens but its images have 7 \(3, 4\)"):
        locate(mask, [3, 4], each)
    with pytest.raises(ValueError, match=r"8 \(1, 1, 1, 1, 1, 1, 1, 1\):"):
        locate(mask, [1] * 8, each)
    with pytest.raises(ValueError, match=r"9 \(1, 1, 1, 1, 1, 1, 1, 1, \.\.\.\):"):
        locate(mask, [1] * 9, each)


def test_an_image_that_would_end_in_the_next_row_is_named():
    mask, _, _ = written([[(3, True)], [(3, True)]])
    with pytest.raises(ValueError, match="row 0 of the batch has 1 placeholders left for image 1"):
        locate(mask, [2, 4], None)
    with pytest.raises(ValueError, match="row 1 of the batch has 2 placeholders left for image 2"):
        locate(mask, [3, 1, 3, -1], None)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3)), min_size=1, max_size=6))
def test_images_and_videos_are_read_in_the_order_of_the_prompt(parts):
    text = []
    for number, (video, n) in enumerate(parts):
        text += [2] * (1 + number) + [int(video)] * n
    line = torch.tensor([text])
    marks = [line == 0, line == 1]
    lengths = [[n for video, n in parts if video == kind] for kind in (False, True)]
    assert in_reading_order(marks, lengths) == [n for _, n in parts]
    for kind in (0, 1):
        wrong = [own + [5] * (kind == index) for index, own in enumerate(lengths)]
        with pytest.raises(ValueError, match="pass one placeholder for every visual token"):
            in_reading_order(marks, wrong)


def group(lengths, row_of, columns, **options):
    """Images of equal length, all of them, in a pass of their own."""
    batch, width = max(row_of) + 1, int(columns.max()) + 3
    mask = torch.zeros(batch, width, dtype=torch.bool)
    for row, own in zip(row_of, columns):
        mask[row, own] = True
    pass_ = Pass(width, 0, batch, None, lengths=lengths, row_of=row_of, image_mask=mask)
    made = ImageTokens(torch.tensor(row_of), columns, [*range(len(row_of))], pass_, **options)
    pass_.groups = [made]
    return made


def test_states_and_places_are_those_of_the_tokens():
    columns = torch.tensor([[1, 2], [5, 6], [2, 3]])
    images = group([2, 2, 2], [0, 0, 1], columns)
    states = torch.arange(2 * 9 * 3.0).view(2, 9, 3)
    images.prefill.entering = states
    want = [[states[row, c].tolist() for c in own] for row, own in zip([0, 0, 1], columns)]
    assert images.take(states).tolist() == images.hidden.tolist() == want
    assert images.stage == 0 and torch.equal(images.places, columns)
    behind = [[3, 4, 7, 8], [7, 8], [4, 5, 6, 7, 8]]
    assert [own.nonzero().squeeze(1).tolist() for own in images.text_behind] == behind
    left = torch.tensor([[0, 1, 2, 3, 5, 6, 8], [0, 1, 2, 3, 4, 7, 8]])
    images.prefill.stages = [Stage(0, columns=left)]
    images.columns = torch.tensor([[1, 2], [4, 5], [2, 3]])  # as the stage left them
    assert images.stage == 1 and torch.equal(images.places, columns)
    assert [own.nonzero().squeeze(1).tolist() for own in images.text_behind] == behind
    images.prefill.stages = [Stage(0)]  # nothing was dropped
    images.columns = columns
    assert torch.equal(images.places, columns)


def test_a_row_of_the_tower_goes_to_the_image_and_to_its_copies():
    columns = torch.tensor([[1, 2]] * 4)
    images = group([2] * 4, [0, 1, 2, 3], columns)
    per_image = torch.tensor([[10.0], [11.0], [12.0], [13.0]])
    assert torch.equal(images.of_vision(per_image), per_image)
    assert images.of_vision(per_image[:2]).flatten().tolist() == [10, 10, 11, 11]
    assert images.of_vision(per_image[:1]).flatten().tolist() == [10] * 4
    images.ordinals, images.columns = [3, 1], columns[:2]  # a part of the pass's images
    assert images.of_vision(per_image).flatten().tolist() == [13, 11]
    assert images.of_vision(per_image[:2]).flatten().tolist() == [11, 10]


@pytest.mark.parametrize("more", [(), (3,), (3, 4)])
def test_values_of_the_first_tokens_are_read_at_those_that_are_left(more):
    columns = torch.tensor([[1, 2], [1, 2]])
    origin = torch.tensor([[0, 3], [4, 2]])
    images = group([2, 2], [0, 1], columns, origin=origin, total=5)
    assert images.total == 5
    values = torch.rand(2, 5, *more)
    want = [[values[row, int(one)].tolist() for one in origin[row]] for row in range(2)]
    assert images.before(values).tolist() == want
    images.origin = None
    assert images.before(values) is values
