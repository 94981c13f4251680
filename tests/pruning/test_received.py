"""What tokens receive of attention, against a sum over queries written out."""

import itertools
import math

import pytest
import torch

from lib.pruning.engine import received as module
from lib.pruning.engine.received import received, received_in_segments


def summed(queries, keys, scale, seen):
    """By definition, one head of one row: queries (q, width), keys (k, width), seen bool (q, k)."""
    total = [0.0] * len(keys)
    for q, query in enumerate(queries):
        logits = [scale * float(query @ key) for key in keys]
        weights = [math.exp(one) if seen[q][k] else 0.0 for k, one in enumerate(logits)]
        for k, weight in enumerate(weights):
            total[k] += weight / sum(weights)
    return torch.tensor(total)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("at_once", [2**24, 40, 30, 1])
@pytest.mark.parametrize("mask", [None, "keys", "queries", "additive"])
def test_every_query_gives_one_in_all(at_once, mask, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    queries, keys = drawn(2, 3, 7, 4, seed=1), drawn(2, 3, 5, 4, seed=2)
    seen = torch.ones(2, 1, 7, 5, dtype=torch.bool)
    given = None
    if mask == "keys":
        seen[0, :, :, 3:] = False
        given = seen[:, :, :1]
    elif mask:
        seen[0, :, 2, :4] = seen[1, :, 6, 1:] = False
        given = seen if mask == "queries" else torch.zeros(2, 1, 7, 5).masked_fill(~seen, -1e9)
    found = received(queries, keys, 0.6, visible=given)
    assert found.shape == (2, 3, 5) and found.dtype == torch.float32
    torch.testing.assert_close(found.sum(-1), torch.full((2, 3), 7.0))
    for row in range(2):
        for head in range(3):
            want = summed(queries[row, head], keys[row, head], 0.6, seen[row, 0].tolist())
            torch.testing.assert_close(found[row, head], want)


@pytest.mark.parametrize("room, steps", [(90, [3, 3, 1]), (89, [2, 2, 2, 1]), (1, [1] * 7)])
def test_no_more_weights_are_made_at_once_than_there_is_room_for(room, steps, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", room)
    made = []
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(
        torch.Tensor, "softmax", lambda x, dim: made.append(tuple(x.shape)) or softmax(x, dim)
    )
    received(drawn(2, 3, 7, 4), drawn(2, 3, 5, 4), 1.0)
    assert made == [(2, 3, step, 5) for step in steps], "at least a query at a time"


def test_half_precision_is_added_up_in_full():
    queries, keys = drawn(1, 1, 300, 4).bfloat16(), drawn(1, 1, 6, 4, seed=3).bfloat16()
    found = received(queries, keys, 0.5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(), torch.tensor(300.0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("bounds", [[0, 6], [0, 2, 6], [0, 2, 4, 6], [0, 1, 4, 5, 6]])
def test_attention_stays_within_its_segment(bounds):
    queries, keys = drawn(6, 2, 4, seed=4), drawn(6, 2, 4, seed=5)
    found = received_in_segments(queries, keys, 0.7, bounds)
    assert found.shape == (2, 6) and found.dtype == torch.float32
    for begin, end in itertools.pairwise(bounds):
        for head in range(2):
            q, k = queries[begin:end, head], keys[begin:end, head]
            want = summed(q, k, 0.7, [[True] * (end - begin)] * (end - begin))
            torch.testing.assert_close(found[head, begin:end], want)
