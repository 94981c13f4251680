"""The cache of a captured prefill, which is not copied onto nothing."""

import threading
from contextlib import nullcontext
from types import SimpleNamespace

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from lib.decoding.prefill import capture


def states(length, seed):
    generator = torch.Generator().manual_seed(seed)
    # as projections leave them: heads behind positions
    return torch.randn(2, length, 3, 4, generator=generator).transpose(1, 2)


def test_a_captured_prompts_first_keys_and_values_are_kept_where_they_are(monkeypatch):
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name in ("CUDAGraph", "Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda **_: stream)
    for name in ("stream", "set_stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: nullcontext())
    first, then, update = states(5, 0), states(1, 1), DynamicLayer.update
    usual = DynamicCache()

    def prefill(input_ids):
        ours, others = DynamicCache(), []
        keys, _ = ours.update(first, -first, 0)
        assert keys is first and ours.layers[0].keys is first and ours.get_seq_length() == 5
        thread = threading.Thread(
            target=lambda: others.append(DynamicCache().update(first, -first, 0))
        )
        thread.start()
        thread.join()
        assert others[0][0] is not first, "another thread's caches are as ever"
        return ours.update(then, -then, 0)

    inner = SimpleNamespace(get_placeholder_mask=None)
    captured = capture(prefill, SimpleNamespace(inner=inner), None, {"input_ids": then}, 1)
    usual.update(first, -first, 0)
    for one, other in zip(captured.output, usual.update(then, -then, 0), strict=True):
        assert torch.equal(one, other)
    assert DynamicLayer.update is update
