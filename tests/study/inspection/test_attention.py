"""Attention recomputed from queries and keys, against the eager model's own."""

import pytest
import torch

from lib.study.inspection.attention import attention_shares, generate
from tests import tiny


@pytest.mark.parametrize("count", [1, 3, 11])
def test_attention_agrees_with_the_eager_model(count):
    model, eager = tiny.tiny_llava(), tiny.tiny_llava(attention="eager")
    inputs = tiny.one()
    answer = torch.randint(3, 80, (count,), generator=torch.Generator().manual_seed(count))
    shares, counts, maps = attention_shares(model, inputs, answer)

    full = torch.cat([inputs["input_ids"], answer[None, :-1]], 1)
    with torch.inference_mode():
        out = eager(
            input_ids=full, pixel_values=inputs["pixel_values"], output_attentions=True,
            attention_mask=torch.ones_like(full),
        )  # fmt: skip
    length = inputs["input_ids"].shape[1]
    rows = torch.stack(out.attentions)[:, 0].mean(1)[:, length - 1 :]  # (layers, count, positions)
    spots = (full[0] == tiny.IMAGE).nonzero().squeeze(1)
    first, last = int(spots[0]), int(spots[-1])
    parts = [slice(first), slice(first, last + 1), slice(last + 1, length), slice(length, None)]
    expected = torch.stack([rows[..., part].sum(-1).mean(-1) for part in parts], -1)
    torch.testing.assert_close(shares, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(maps, rows[..., spots].mean(1), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(shares.sum(1), torch.ones(len(shares)), atol=1e-5, rtol=0)
    assert counts == [5, tiny.TOKENS, 5, count]


def test_attention_hooks_are_removed_even_after_an_error():
    model = tiny.tiny_llava()
    with pytest.raises(RuntimeError):
        attention_shares(model, tiny.one() | {"pixel_values": None}, torch.tensor([[4]]))
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_an_empty_answer_is_refused():
    with pytest.raises(ValueError, match="empty answer"):
        attention_shares(tiny.tiny_llava(), tiny.one(), torch.tensor([], dtype=torch.long))


def test_generate_stops_before_the_end_token():
    model = tiny.tiny_llava()
    free = generate(model, tiny.one(), 6)
    assert len(free) == 6
    model.generation_config.eos_token_id = int(free[3])
    stop = free.tolist().index(int(free[3]))
    assert generate(model, tiny.one(), 6).tolist() == free[:stop].tolist()
