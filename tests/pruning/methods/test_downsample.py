"""Image down-sampling."""

import pytest
import torch

from lib.pruning import create
from tests.pruning.methods.reference import entering, kept_by
from tests.tiny import IMAGE, PATCH, TOKENS, one, ragged, tiny_llava, tiny_llava_next


@pytest.mark.parametrize("keep, grid", [(4 / 36, (2, 2)), (0.5, (4, 4)), (30 / 36, (5, 6))])
def test_the_language_model_reads_the_tower_of_a_smaller_picture(model, keep, grid):
    inputs = one()
    pruner = create("downsample", keep=keep)
    assert pruner.grid_of(TOKENS) == grid
    small = torch.nn.functional.interpolate(
        inputs["pixel_values"], [side * PATCH for side in grid], mode="bicubic", antialias=True
    )
    out = model.model.vision_tower(
        small, output_hidden_states=True, interpolate_pos_encoding=True
    ).hidden_states[-2][:, 1:]
    wanted = model.model.multi_modal_projector(out)[0]
    count = grid[0] * grid[1]
    begin = inputs["input_ids"][0].tolist().index(IMAGE)
    seen = entering(model, inputs, pruner)
    torch.testing.assert_close(seen[0, begin : begin + count], wanted, atol=1e-5, rtol=1e-5)


def test_counts_never_exceed_the_budget_and_come_close():
    for keep, grid in ((192 / 576, (13, 14)), (128 / 576, (11, 11)), (64 / 576, (8, 8))):
        pruner = create("downsample", keep=keep)
        assert pruner.grid_of(576) == grid and pruner.most(576) == grid[0] * grid[1]
    for tokens in range(1, 577):
        rows, columns = create("downsample", keep=tokens / 576).grid_of(576)
        assert 1 <= rows * columns <= tokens and rows <= columns <= rows + 2
        assert rows * columns >= tokens - rows


def test_tokens_stand_where_pooled_ones_would(model):
    for side in (1, 2, 3, 6):
        keep = side * side / 36
        kept = kept_by("downsample", model, ragged(), keep=keep)
        assert kept == kept_by("pool", model, ragged(), keep=keep)


def test_a_constant_picture_stays_constant():
    pruner = create("downsample", keep=0.25)
    pruner._grid, pruner._patch = (3, 3), PATCH
    small = pruner.shrink(torch.full((1, 3, 42, 42), 0.7))
    torch.testing.assert_close(small, torch.full((1, 3, 21, 21), 0.7))


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="layer is 0, not 1"):
        create("downsample", layer=1)
    with (
        pytest.raises(TypeError, match="patches only"),
        create("downsample")(tiny_llava(strategy="full")),
    ):
        pass
    with pytest.raises(TypeError, match="Downsample does not support LlavaNext"):
        create("downsample")(tiny_llava_next())
