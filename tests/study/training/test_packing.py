"""Packed captions: the loss of each is that of its own sequence through the public model."""

import pytest
import torch

from lib.study.training.losses import split_prompt
from lib.study.training.packing import pack, packed_loss

CAPTIONS = [[[7, 8, 9, 2], [11, 12, 2]], [[21, 2], [30, 31, 32, 33, 2]]]


def alone(model, processor, pixels, caption, shown=None):
    """Summed cross-entropy of one caption behind the prompt, through the public forward."""
    before, after = split_prompt(processor)
    places = model.config.image_seq_length
    row = torch.tensor([[*before, *[model.config.image_token_id] * places, *after, *caption]])
    mask = torch.ones_like(row)
    if shown is not None:
        mask[0, len(before) : len(before) + places] = shown
    logits = model(
        input_ids=row, pixel_values=pixels[None], attention_mask=mask,
        position_ids=torch.arange(row.shape[1])[None],
    ).logits[0, -len(caption) - 1 : -1]  # fmt: skip
    return torch.nn.functional.cross_entropy(logits, torch.tensor(caption), reduction="none")


@pytest.mark.parametrize("dropped", [False, True])
def test_packing_changes_no_loss(model, processor, dropped):
    torch.manual_seed(1)
    pixels = torch.randn(2, 3, 56, 56)
    keep = torch.rand(2, 16) < 0.5 if dropped else None
    weights = [[1.0, -2.0], [0.5, 3.0]]
    with torch.no_grad():
        visual = model.get_image_features(pixel_values=pixels).pooler_output
        visual = torch.stack(list(visual)) if not torch.is_tensor(visual) else visual
        got = packed_loss(
            model, visual.view(2, 16, -1), pack(CAPTIONS, room=9, weights=weights),
            split_prompt(processor), keep=keep,
        )  # fmt: skip
        expected = sum(
            weights[i][j]
            * alone(model, processor, pixels[i], said, None if keep is None else keep[i]).sum()
            for i, each in enumerate(CAPTIONS)
            for j, said in enumerate(each)
        )
    assert got.item() == pytest.approx(expected.item() / 14, rel=1e-4)


def test_what_does_not_fit_is_left_out():
    packed = pack(CAPTIONS, room=4)
    assert (packed.target >= 0).sum(1).tolist() == [4, 2]  # 3 + 2 words do not fit in 4
    assert (packed.owner == 1).sum() == 0
    assert pack(CAPTIONS, room=5).target[0].tolist() == [7, 8, 9, 2, 11, 12, 2]
