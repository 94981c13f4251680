"""Packed decoding: greedy words are `generate`'s, samples follow the model's distribution."""

import pytest
import torch

from lib.study.training.losses import split_prompt
from lib.study.training.sampling import PackedDecoder


def visual_of(model, pixels):
    with torch.no_grad():
        visual = model.get_image_features(pixel_values=pixels).pooler_output
    visual = torch.stack(list(visual)) if not torch.is_tensor(visual) else visual
    return visual.view(len(pixels), 16, -1)


@pytest.mark.parametrize("dropped", [False, True])
def test_greedy_words_are_those_of_generate(model, processor, dropped):
    torch.manual_seed(1)
    pixels = torch.randn(3, 3, 56, 56)
    keep = torch.rand(3, 16) < 0.5 if dropped else None
    prompt = split_prompt(processor)
    language, head = model.model.language_model, model.lm_head
    end = processor.tokenizer.eos_token_id
    decoder = PackedDecoder(language, head, prompt, end, max_new_tokens=8)
    said = decoder(visual_of(model, pixels), captions=2, keep=keep)
    assert (said[:, 0] == said[:, 1]).all()
    before, after = prompt
    row = torch.tensor([*before, *[model.config.image_token_id] * 16, *after]).expand(3, -1)
    mask = torch.ones_like(row).clone()
    if keep is not None:
        mask[:, len(before) : len(before) + 16] = keep
    places = torch.arange(row.shape[1] + 8).expand(3, -1)
    expected = []
    for _ in range(said.shape[2]):  # positions stay where tokens are hidden
        words = torch.stack(expected, 1) if expected else row[:, :0]
        full = torch.cat([row, words], 1)
        with torch.no_grad():
            logits = model(
                input_ids=full, pixel_values=pixels,
                attention_mask=torch.cat([mask, torch.ones_like(words)], 1),
                position_ids=places[:, : full.shape[1]],
            ).logits[:, -1]  # fmt: skip
        expected.append(logits.argmax(-1))
    expected = torch.stack(expected, 1)
    ended = (expected == processor.tokenizer.eos_token_id).cumsum(1).bool()
    expected[ended] = processor.tokenizer.eos_token_id
    assert (said[:, 0] == expected).all()
    assert len(set(map(tuple, said[:, 0].tolist()))) > 1  # the images matter


def test_samples_follow_the_distribution(model, processor):
    torch.manual_seed(1)
    visual = visual_of(model, torch.randn(1, 3, 56, 56)).expand(50, -1, -1)
    language, head = model.model.language_model, model.lm_head
    decoder = PackedDecoder(language, head, split_prompt(processor), -5, max_new_tokens=1)
    drawn = decoder(visual, captions=40, sample=True, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        likeliest = decoder(visual[:1])[0, 0, 0]
    counts = torch.bincount(drawn.flatten(), minlength=400) / 2000
    before, after = split_prompt(processor)
    row = torch.tensor([[*before, *[model.config.image_token_id] * 16, *after]])
    torch.manual_seed(1)
    with torch.no_grad():
        logits = model(input_ids=row, pixel_values=torch.randn(1, 3, 56, 56)).logits[0, -1]
    odds = logits.softmax(-1)
    assert counts[likeliest] == pytest.approx(odds[likeliest].item(), abs=0.05)
    error = (odds * (1 - odds) / 2000).sqrt() + 1e-4
    assert ((counts[: len(odds)] - odds).abs() < 5 * error + 2e-3).all()
