"""The uniform grid."""

import pytest
import torch

from lib.pruning import FixedPrune, create
from lib.pruning.engine.rasters import cells, proportional
from lib.pruning.grid import filled
from tests.pruning.methods.reference import kept_by
from tests.pruning.test_contract import next_inputs
from tests.tiny import one, ragged, tiny_llava

CPU = torch.device("cpu")


def test_64_of_576_are_every_third_of_every_third_row():
    centres = cells(24, 24, 64, CPU).centres
    wanted = [24 * y + x for y in range(1, 24, 3) for x in range(1, 24, 3)]
    assert centres.tolist() == wanted


@pytest.mark.parametrize("rows, columns", [(6, 6), (24, 24), (3, 8), (1, 7), (9, 2)])
def test_every_count_cuts_the_raster_into_cells_of_nearly_equal_size(rows, columns):
    size = rows * columns
    for k in {1, 2, 3, 5, size // 3, size // 2, size - 1, size} - {0}:
        centres, weights = cells(rows, columns, k, CPU)
        inside = weights > 0
        assert (inside.sum(0) == 1).all()  # a partition
        assert inside[torch.arange(k), centres].all()  # the middle lies in its cell
        assert torch.equal(centres, centres.unique())  # distinct, in raster order
        torch.testing.assert_close(weights.sum(1), torch.ones(k))
        high = inside.view(k, rows, columns).any(2).sum(1)
        wide = inside.view(k, rows, columns).any(1).sum(1)
        assert torch.equal(high * wide, inside.sum(1))  # rectangles
        assert high.max() - high.min() <= 1
        if rows == columns:
            assert high.max() <= 2 * wide.max() and wide.max() <= 2 * high.max() + 1


def test_every_image_keeps_the_same_and_all_of_them_where_asked(model):
    inputs = ragged()
    kept = kept_by("grid", model, inputs, keep=0.25)
    assert kept == [[0, 2, 4, 12, 14, 16, 24, 26, 28]] * 4
    assert kept_by("grid", model, inputs, keep=0.999) == [list(range(36))] * 4


def test_tiles_share_the_budget_and_form_grids_of_their_own(tiled):
    inputs, lengths = next_inputs(tiled)
    with create("grid", keep=0.25)(tiled) as pruner:
        tiled(**inputs)
        for own, length in zip(pruner.kept, lengths):
            budget = pruner.budget(length)
            assert len(own) == budget
            mosaic = 72  # 6 x 12 or 12 x 6 tokens, and a newline behind each row
            assert length - 36 - mosaic in (6, 12)
            assert int((own < 36).sum()) == proportional(budget, [36, mosaic])[0]


@pytest.mark.parametrize("method", ["grid", "pool"])
def test_what_is_left_when_every_patch_stays_goes_to_the_first_newlines(tiled, method):
    inputs, lengths = next_inputs(tiled)
    with create(method, keep=0.96)(tiled) as pruner:
        tiled(**inputs)
        for own, length in zip(pruner.kept, lengths):
            high, wide = (6, 12) if length == 36 + 6 * 13 else (12, 6)
            newlines = [36 + (wide + 1) * row + wide for row in range(high)]
            gone = newlines[pruner.budget(length) - 36 - 72 :]
            assert 0 < len(gone) < high
            assert sorted(set(range(length)) - set(own.tolist())) == gone
        pruned = tiled(**inputs).logits[:, -1]
        kept = [own.tolist() for own in pruner.kept]
    with FixedPrune(indices=kept, positions="contiguous")(tiled):  # each as the model made it
        torch.testing.assert_close(tiled(**inputs).logits[:, -1], pruned, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("more", [0, 1, 2, 3, 4])
def test_filling_takes_the_first_free_places(more):
    mask = torch.tensor([True, False, False, True, False, False, True])
    wanted = mask.tolist()
    for place in [1, 2, 4, 5][:more]:
        wanted[place] = True
    assert filled(mask, more).tolist() == wanted


def test_tokens_without_a_raster_are_refused():
    with (
        pytest.raises(TypeError, match="form no raster"),
        create("grid")(tiny_llava(strategy="full")),
    ):
        pass


def test_shares_add_up():
    assert proportional(10, [1, 1, 1]) == [4, 3, 3]
    assert proportional(0, [3, 4]) == [0, 0]
    assert proportional(7, [3, 4]) == [3, 4]
    assert kept_by("grid", tiny_llava(), one(), keep=1 / 36) == [[14]]
