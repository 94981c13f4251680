"""Where in the picture a visual token lies, against each family's packing said in words."""

from types import SimpleNamespace

import pytest
import torch

from lib.pruning import VisualPruner
from lib.pruning.engine.images import ImageTokens
from lib.pruning.engine.passes import Pass
from lib.pruning.engine.places import coordinates
from lib.pruning.engine.vision import VisionRecord, attach
from lib.pruning.families import Layout
from tests.pruning.families.tiny import ALL, SHRUNK, Picture
from tests.tiny import one, tiny_llava


class Look(VisualPruner):
    """Keeps everything and notes where every token lies."""

    exact = keeps_all = False

    def select(self, images):
        for ordinal, found in zip(images.ordinals, coordinates(images, self.family)):
            self.seen[ordinal] = found
        return torch.ones_like(images.columns, dtype=torch.bool)


def seen(model, inputs):
    with torch.no_grad(), Look()(model) as pruner:
        pruner.seen = {}
        model(**inputs)
        return [pruner.seen[ordinal].tolist() for ordinal in sorted(pruner.seen)]


def raster(rows, columns):
    return [[y, x] for y in range(rows) for x in range(columns)]


def packed(rows, columns, side=6):
    """A base tile of side x side, then rows that end with a newline, scaled to its extent."""
    fine = [[y * side / rows, x * side / columns] for y in range(rows) for x in range(columns + 1)]
    return raster(side, side) + fine


def expected(tiny, picture):
    if tiny.name in ("llava_next", "llava_onevision") and picture.kind == "image":
        return [packed(*(size // 7 for size in picture.size))]
    if tiny.name == SHRUNK.name:
        return [packed(*((8, 4) if picture.size[0] > picture.size[1] else (4, 8)))]
    if tiny.name == "llava_onevision":  # the newline stands behind the last frame
        frames = [raster(3, 3) for _ in range(picture.size[0])]
        return [*frames[:-1], [*frames[-1], [2, 3]]]
    if tiny.name.startswith("qwen"):
        frames, rows, columns = picture.size
        return [raster(rows // 2, columns // 2)] * frames
    side = {"llava": 6, "internvl": 4, "smolvlm": 4}[tiny.name]
    return [raster(side, side)] * len(tiny.tokens(picture))


CASES = [(tiny, "ragged") for tiny in (*ALL.values(), SHRUNK)]
CASES += [(tiny, "video") for tiny in ALL.values() if tiny.video]


@pytest.mark.parametrize("tiny, kind", CASES, ids=lambda case: getattr(case, "name", case))
def test_tokens_lie_where_the_family_puts_them(tiny, kind):
    found = seen(tiny.model(), tiny.inputs(kind))
    pictures = [p for row in tiny.rows(kind) for p in row if isinstance(p, Picture)]
    want = [own for picture in pictures for own in expected(tiny, picture)]
    lengths = [len(own) for own in found]
    if lengths != [len(own) for own in want]:  # up to 5.17 the newline of a video comes later
        want = [own[:length] for own, length in zip(want, lengths)]
    for own, wanted in zip(found, want, strict=True):
        torch.testing.assert_close(torch.tensor(own), torch.tensor(wanted, dtype=torch.float32))


def test_tokens_of_no_raster_lie_on_a_line():
    inputs = one()
    ids = inputs["input_ids"][0].tolist()
    ids.insert(ids.index(90), 90)  # the class token has a place of its own
    inputs["input_ids"] = torch.tensor([ids])
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    (found,) = seen(tiny_llava(strategy="full"), inputs)
    assert found == [[0, x] for x in range(37)]


def laid_out(letters, tiles, *, grid=None, origin=None):
    """Coordinates of an image; letters: `o` a token, `|` a separator; tiles: one a token."""
    apart = torch.tensor([letter == "|" for letter in letters])
    source = torch.where(apart, -1, torch.arange(len(letters)))[:, None]
    record, features = VisionRecord(), SimpleNamespace()
    record.extra["layouts"] = [Layout(source, grid, torch.tensor(tiles).masked_fill(apart, -1))]
    attach(features, record)
    pass_ = Pass(len(letters), 0, 1, None, lengths=[len(letters)], row_of=[0], encoded_images=1)
    pass_.features = [("image", features)]
    left = len(letters) if origin is None else len(origin)
    images = ImageTokens(
        torch.tensor([0]), torch.arange(left)[None], [0], pass_,
        origin=None if origin is None else torch.tensor([origin]), total=len(letters),
    )  # fmt: skip
    return coordinates(images, SimpleNamespace(grid=lambda: None))[0].tolist()


def test_what_is_no_square_tile_with_rows_behind_it_lies_on_a_line():
    line = [[0, x] for x in range(9)]
    assert laid_out("ooooooooo", [0] * 4 + [1] * 5) == line  # no separator
    assert laid_out("ooooooo|o", [0] * 5 + [1] * 4) == line  # 5 tokens are no square
    assert laid_out("oo|oo|ooo", [0] * 2 + [1] * 7) == line


def test_rows_end_with_a_separator_and_need_not_be_equally_long():
    found = laid_out("oooo" + "oo|o|ooo|", [0] * 4 + [1] * 9)
    fine = [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [2, 0], [2, 1], [2, 2], [2, 3]]
    assert found[:4] == [[0, 0], [0, 1], [1, 0], [1, 1]]
    for (y, x), own in zip(fine, found[4:], strict=True):
        assert own == pytest.approx([y * 2 / 3, x * 2 / 3])


def test_a_tile_of_one_token_and_rows_of_one():
    found = laid_out("o" + "o|o|", [0] + [1] * 4)
    assert found == [[0, 0], [0, 0], [0, 1], [0.5, 0], [0.5, 1]]


def test_separators_of_a_raster_lie_behind_the_token_in_front():
    found = laid_out("oo|oo|", [0] * 6, grid=(2, 2))
    assert found == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


def test_only_what_an_earlier_stage_left_is_told():
    found = laid_out("oo|oo|", [0] * 6, grid=(2, 2), origin=[1, 5, 3])
    assert found == [[0, 1], [1, 2], [1, 0]]
