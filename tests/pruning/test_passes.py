"""What is known of a pass, against plain loops over prompts written as strings.

A row of a batch is a string: `.` padding, `t` text, `I` a visual token, `d` a draft.
"""

from types import SimpleNamespace

import pytest
import torch

from lib.pruning.engine.passes import Current, Doubt, Kept, Pass, Stage
from lib.pruning.engine.vision import VisionRecord, attach


def pass_of(rows, per_row=None, size=2, **options):
    """A pass of prompts with images of `size` tokens."""
    drafts = rows[0].count("d")
    per_row = per_row or [row.count("I") // size for row in rows]
    row_of = [row for row, count in enumerate(per_row) for _ in range(count)]
    return Pass(
        len(rows[0]), 0, len(rows), None, drafts=drafts, lengths=[size] * len(row_of),
        row_of=row_of, image_mask=where(rows, "I"),
        valid=~where(rows, ".") if "." in "".join(rows) else None, **options,
    )  # fmt: skip


def where(rows, letters):
    return torch.tensor([[c in letters for c in row] for row in rows])


ROWS = ["..tIItttdd", "tIIttIItdd", ".ttttIItdd", "...tttIIdd"]


@pytest.mark.parametrize("rows", [ROWS, ["tIItt"], ["ttIIt", ".tIIt"], ["tIIt..", "tIIttt"]])
def test_the_text_is_where_neither_image_nor_padding_nor_draft_is(rows):
    pass_ = pass_of(rows)
    assert torch.equal(pass_.text_mask, where(rows, "t"))
    places, real = pass_.text()
    beside = max(len(row) - row.count("I") - row.count("d") for row in rows)
    assert places.shape == real.shape == (len(rows), beside)
    for row, own, mine in zip(rows, places, real):
        assert own[mine].tolist() == [i for i, c in enumerate(row) if c == "t"]
        assert mine.tolist() == sorted(mine.tolist(), reverse=True)  # filled up behind


def test_the_text_of_a_long_prompt_is_in_order():
    """So long that an unstable sort would show."""
    letters = torch.rand(2, 5000, generator=torch.Generator().manual_seed(0)) < 0.5
    rows = ["".join("tI"[int(one)] for one in row) for row in letters]
    places, real = pass_of(rows, [row.count("I") for row in rows], size=1).text()
    for row, own, mine in zip(rows, places, real):
        assert own[mine].tolist() == [i for i, c in enumerate(row) if c == "t"]


def test_what_a_stage_left_is_counted_in_its_own_positions():
    pass_ = pass_of([".tIIIItt", "ttIIIItt"], size=4)
    assert pass_.now == 8 and pass_.stage is None and pass_.visible is pass_.valid
    columns = torch.tensor([[-1, 1, 3, 5, 6, 7], [0, 1, 2, 4, 6, 7]])
    key_mask = columns >= 0
    pass_.stages = [Stage(0), Stage(1, columns=columns, key_mask=key_mask)]
    assert pass_.stage is pass_.stages[-1] and pass_.now == 6
    assert pass_.visible is key_mask
    places, real = pass_.text()
    assert [own[mine].tolist() for own, mine in zip(places, real)] == [[1, 4, 5], [0, 1, 4, 5]]
    marked = torch.zeros(2, 8, dtype=torch.bool)
    marked[:, 0] = marked[0, 5] = marked[1, 4] = True
    assert pass_.at_present(marked).int().tolist() == [[0, 0, 0, 1, 0, 0], [1, 0, 0, 1, 0, 0]]
    turned = pass_.at_present(marked.flip(0), torch.tensor([1, 0]))
    assert torch.equal(turned, pass_.at_present(marked).flip(0))
    assert pass_.last(torch.device("cpu")).tolist() == [5, 5]
    pass_.stages.append(Stage(2))  # one that dropped nothing of all
    assert pass_.now == 8


@pytest.mark.parametrize(
    "rows", [ROWS, ["tIItt"], ["tIIt..", "tIIttt"], [".tIIt", "ttIIt"], ["tIItd", "tIItd"]]
)
def test_the_last_token_of_the_prompt_asks(rows):
    want = [max(i for i, c in enumerate(row) if c in "tI") for row in rows]
    pass_ = pass_of(rows)
    assert pass_.last(torch.device("cpu")).tolist() == want
    columns = torch.tensor([[i for i in range(len(row)) if i != row.index("I")] for row in rows])
    pass_.stages = [Stage(0, columns=columns)]
    assert pass_.last(torch.device("cpu")).tolist() == [last - 1 for last in want]


@pytest.mark.parametrize("per_prompt", [[1], [2], [1, 2, 0, 1], [0, 3], [2, 2]])
@pytest.mark.parametrize("copies", [1, 2, 3])
def test_a_copy_of_a_prompt_is_led_back_to_its_images(per_prompt, copies):
    per_row = [count for count in per_prompt for _ in range(copies)]
    pass_ = pass_of(["t"] * len(per_row), per_row)
    assert pass_.images_per_row == per_row and pass_.images == sum(per_row)
    want, first = [], 0
    for count in per_prompt:
        want += [*range(first, first + count)] * copies
        first += count
    pass_.encoded_images = first
    assert [pass_.encoded(i) for i in range(pass_.images)] == want
    assert [pass_.source_of(i, pass_.images) for i in range(pass_.images)] == [*range(pass_.images)]


@pytest.mark.parametrize("count", [0, 2, 5, 8])
def test_images_that_are_no_copies_are_refused(count):
    with pytest.raises(ValueError, match=f"has 3 images, but {count} are given"):
        pass_of(["t"] * 3, [1, 1, 1]).source_of(0, count)


def test_the_record_of_the_features_is_that_of_one_modality():
    record = VisionRecord()
    known, unknown = SimpleNamespace(), SimpleNamespace()
    attach(known, record)
    pass_ = pass_of(["tIIt"])
    for features in ([], [("image", unknown)]):
        pass_.features = features
        with pytest.raises(ValueError, match="computed outside of the with-block"):
            pass_.seen_vision()
    pass_.features = [("image", known)]
    assert pass_.seen_vision() is record
    pass_.features *= 2
    with pytest.raises(ValueError, match="images and videos"):
        pass_.seen_vision()


def test_what_is_kept_is_what_the_last_stage_left():
    stages = [(number, [torch.full((2,), number > 1)]) for number in range(3)]
    assert Kept(stages, [1]).masks is stages[2][1]


def test_a_doubt_names_the_first_that_is_not_as_it_must_be():
    doubt = Doubt(torch.tensor([2.0, 3.0]), lambda count: count == 2, "image {}".format)
    doubt.settle([2.0, 2.0])
    with pytest.raises(ValueError, match="image 1"):
        doubt.settle([2.0, 3.0, 4.0])


def test_a_thread_begins_outside_of_any_pass():
    current = Current()
    assert current.pass_ is current.record is current.kept is None
    assert not current.generating and not current.drafts and not current.reached


def test_a_pass_of_which_nothing_else_is_known_is_text_alone():
    pass_ = Pass(3, 0, 2, None, image_mask=torch.zeros(2, 3, dtype=torch.bool))
    assert pass_.text_mask.all() and pass_.text_mask.shape == (2, 3)
    assert pass_.last(torch.device("cpu")).tolist() == [2, 2] and pass_.now == 3
    assert pass_.images == pass_.encoded_images == 0 and pass_.images_per_row == [0, 0]
    assert pass_.stage is pass_.visible is None and not pass_.groups and not pass_.features


def test_stages_passes_and_threads_share_nothing():
    one, other = (Pass(3, 0, 2, None) for _ in range(2))
    for name in ("features", "arguments", "marks", "lengths", "row_of", "groups", "attention",
                 "stages", "doubts", "masks", "extra"):  # fmt: skip
        assert not getattr(one, name) and getattr(one, name) is not getattr(other, name)
    assert one != other and Stage(0).given is not Stage(0).given
    stage = Stage(1)
    assert not stage.filled and stage.held == 0 and stage.columns is stage.hidden is None
