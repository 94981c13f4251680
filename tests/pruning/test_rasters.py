"""Rasters of the visual tokens and shares of a budget, against counting."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.pruning import VisualPruner
from lib.pruning.engine.rasters import cells, of_layout, proportional, rasters, require_raster
from lib.pruning.families import Layout, resolve
from tests.pruning.families.tiny import ALL, NEXT, Picture
from tests.pruning.test_places import CASES
from tests.tiny import tiny_llava

CPU = torch.device("cpu")


class Look(VisualPruner):
    """Keeps everything and notes the rasters of every image."""

    exact = keeps_all = False

    def select(self, images):
        self.seen |= dict(zip(images.ordinals, rasters(images, self.family), strict=True))
        return torch.ones_like(images.columns, dtype=torch.bool)


def expected(tiny, picture):
    """The rasters of each part of a picture, as lists of rows of places."""
    if tiny.name.startswith("llava_") and picture.kind == "image":
        rows, columns = (size // 7 for size in picture.size)
        if "shrunk" in tiny.name:
            rows, columns = (8, 4) if rows > columns else (4, 8)
        base = [[6 * y + x for x in range(6)] for y in range(6)]
        fine = [[36 + (columns + 1) * y + x for x in range(columns)] for y in range(rows)]
        return [[base, fine]]
    if tiny.name == "llava_onevision":
        parts, rows, columns = picture.size[0], 3, 3
    elif tiny.name.startswith("qwen"):
        parts, rows, columns = picture.size[0], picture.size[1] // 2, picture.size[2] // 2
    else:
        parts = len(tiny.tokens(picture))
        rows = columns = {"llava": 6, "internvl": 4, "smolvlm": 4}[tiny.name]
    return [[[[columns * y + x for x in range(columns)] for y in range(rows)]]] * parts


@pytest.mark.parametrize("tiny, kind", CASES, ids=lambda case: getattr(case, "name", case))
def test_rasters_are_those_of_the_packing(tiny, kind):
    model = tiny.model()
    with torch.no_grad(), Look()(model) as pruner:
        pruner.seen = {}
        model(**tiny.inputs(kind))
    found = [[one.tolist() for one in pruner.seen[key]] for key in sorted(pruner.seen)]
    pictures = [p for row in tiny.rows(kind) for p in row if isinstance(p, Picture)]
    assert found == [own for picture in pictures for own in expected(tiny, picture)]


def layout(letters, tiles):
    """A layout; letters: `o` a token, `|` a separator."""
    apart = torch.tensor([letter == "|" for letter in letters])
    source = torch.where(apart, -1, torch.arange(len(letters)))[:, None]
    return Layout(source, None, torch.tensor(tiles).masked_fill(apart, -1))


def test_a_layout_is_a_square_tile_and_rows_of_one_length():
    family = resolve(NEXT.model())
    found = of_layout(layout("oooo" + "ooo|" * 2, [0] * 4 + [1] * 8), family)
    assert [one.tolist() for one in found] == [[[0, 1], [2, 3]], [[4, 5, 6], [8, 9, 10]]]
    found = of_layout(layout("oooo", [0] * 4), family)
    assert [one.tolist() for one in found] == [[[0, 1], [2, 3]]]
    found = of_layout(layout("o" + "o|" * 2, [0] + [1] * 4), family)
    assert [one.tolist() for one in found] == [[[0]], [[1], [3]]]
    for letters, tiles in (
        ("ooooo" + "ooo|" * 2, [0] * 5 + [1] * 8),  # five tokens are no square
        ("oooo" + "oo|ooo|", [0] * 4 + [1] * 7),  # rows of two lengths
        ("ooo", [0] * 3),
    ):
        with pytest.raises(TypeError, match="visual tokens of LLaVA-NeXT form no raster"):
            of_layout(layout(letters, tiles), family)


@pytest.mark.parametrize("name", ALL)
def test_every_family_has_a_raster_unless_a_token_stands_for_no_part(name):
    require_raster(resolve(ALL[name].model()))
    with pytest.raises(TypeError, match="one of them stands for no part"):
        require_raster(resolve(tiny_llava(strategy="full")))


@settings(deadline=None)
@given(st.integers(0, 200), st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_shares_are_exact_but_for_less_than_one(total, sizes):
    """Largest remainders: the floor of each exact share, and one more where most is left."""
    shares = proportional(total, sizes)
    exact = [Fraction(total * size, sum(sizes)) for size in sizes]
    assert sum(shares) == total
    rest = [one - share for one, share in zip(exact, shares)]
    assert all(-1 < one < 1 for one in rest)
    up = [float(one + 1) for one in rest if one < 0]
    down = [float(one) for one in rest if one >= 0]
    assert not up or not down or min(up) >= max(down) - 1e-9


def test_no_band_has_more_cells_than_columns():
    """313 cells in 9 x 39: a root of 8.5 bands, rounded to 8, would want 40 of 39 columns."""
    _, weights = cells(9, 39, 313, CPU)
    assert bool((weights.sum(1) > 0).all()) and bool(((weights > 0).sum(0) == 1).all())


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_cells_are_bands_of_rows_cut_alike(rows, columns, data):
    """Any raster and count: a partition into rectangles whose areas differ by little."""
    k = data.draw(st.integers(1, rows * columns))
    centres, weights = cells(rows, columns, k, CPU)
    inside = (weights > 0).view(k, rows, columns)
    assert (inside.sum(0) == 1).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(k))
    heights, widths = set(), set()
    for cell, own, centre in zip(inside, weights, centres.tolist()):
        ys, xs = cell.any(1).nonzero().flatten().tolist(), cell.any(0).nonzero().flatten().tolist()
        assert bool(cell[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1].all())  # a rectangle
        assert centre == columns * ((ys[0] + ys[-1]) // 2) + (xs[0] + xs[-1]) // 2
        size = len(ys) * len(xs)
        torch.testing.assert_close(own[cell.flatten()], torch.full((size,), 1 / size))
        heights.add(len(ys))
        widths.add(len(xs))
    assert max(heights) - min(heights) <= 1
    assert centres.tolist() == sorted(set(centres.tolist()))


@pytest.mark.parametrize(
    "rows, columns, high, wide", [(24, 24, 8, 8), (12, 24, 4, 8), (24, 12, 8, 4), (8, 12, 2, 3)]
)
def test_where_the_count_has_the_shape_of_the_raster_cells_are_equal(rows, columns, high, wide):
    centres, weights = cells(rows, columns, high * wide, CPU)
    tall, broad = rows // high, columns // wide
    assert set((weights > 0).sum(1).tolist()) == {tall * broad}
    want = [
        columns * (tall * y + (tall - 1) // 2) + broad * x + (broad - 1) // 2
        for y in range(high)
        for x in range(wide)
    ]
    assert centres.tolist() == want
