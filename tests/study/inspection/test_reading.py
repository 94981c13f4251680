"""One pass against the model's own outputs, asked for in the ordinary way."""

import pytest
import torch

from lib.study.inspection.attention import attention_shares
from lib.study.inspection.reading import read
from tests import tiny

ANSWER = torch.tensor([5, 9, 11])


def test_a_reading_is_what_the_eager_model_says_of_itself():
    model, eager = tiny.tiny_llava(), tiny.tiny_llava(attention="eager")
    inputs = tiny.one()
    found = read(model, inputs, ANSWER)
    full = torch.cat([inputs["input_ids"], ANSWER[None, :-1]], 1)
    with torch.inference_mode():
        tower = eager.model.vision_tower(
            inputs["pixel_values"], output_hidden_states=True, output_attentions=True
        )
        out = eager(
            input_ids=full, pixel_values=inputs["pixel_values"], output_attentions=True,
            output_hidden_states=True, attention_mask=torch.ones_like(full),
        )  # fmt: skip
    count = len(found.vision)
    states = torch.stack(tower.hidden_states)[:count, 0, 1:]
    assert count == len(tower.hidden_states) - 1  # up to the last but one, which is projected
    torch.testing.assert_close(found.vision, states, atol=1e-5, rtol=1e-4)
    blocks = torch.stack(tower.attentions)[: count - 1, 0].mean(1)
    torch.testing.assert_close(found.tower, blocks, atol=1e-6, rtol=1e-4)
    layers = torch.stack(out.hidden_states[:-1])[:, 0]
    torch.testing.assert_close(found.language, layers, atol=1e-5, rtol=1e-4)
    length = inputs["input_ids"].shape[1]
    rows = torch.stack(out.attentions)[:, 0].mean(1)[:, length - 1 :]
    torch.testing.assert_close(found.rows, rows, atol=1e-6, rtol=1e-4)
    assert found.length == length and len(found.spots) == tiny.TOKENS


def test_it_agrees_with_the_attention_of_the_figure():
    model, inputs = tiny.tiny_llava(), tiny.one()
    shares, _, maps = attention_shares(model, inputs, ANSWER)
    found = read(model, inputs, ANSWER).rows.mean(1)
    torch.testing.assert_close(found[:, read(model, inputs, ANSWER).spots], maps)
    torch.testing.assert_close(found.sum(1), shares.sum(1))


def hooks(model):
    found = [(module._forward_hooks, module._forward_pre_hooks) for module in model.modules()]
    return [len(hooks) for pair in found for hooks in pair]


def test_nothing_stays_behind_and_nothing_is_read_of_nothing():
    model = tiny.tiny_llava()
    read(model, tiny.one(), ANSWER)
    before = hooks(model)  # transformers leaves its own after the first call
    with pytest.raises(ValueError, match="empty answer"):
        read(model, tiny.one(), torch.tensor([], dtype=torch.long))
    with pytest.raises(RuntimeError):
        read(model, tiny.one() | {"pixel_values": None}, torch.tensor([[4]]))
    read(model, tiny.one(), ANSWER)
    assert hooks(model) == before
