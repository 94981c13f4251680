"""The cache of a captured prefill, which is not copied onto nothing."""

import threading

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from lib.decoding.prefill import _first_as_given
from lib.pruning.engine.hooks import replaced_here


def states(length, seed):
    generator = torch.Generator().manual_seed(seed)
    # as projections leave them: heads behind positions
    return torch.randn(2, length, 3, 4, generator=generator).transpose(1, 2)


def test_a_prompts_first_keys_and_values_are_kept_where_they_are():
    usual, ours, first, then = DynamicCache(), DynamicCache(), states(5, 0), states(1, 1)
    with replaced_here([(DynamicLayer, "update", _first_as_given)]):
        keys, values = ours.update(first, -first, 0)
        assert keys is first and torch.equal(values, -first)
        assert ours.layers[0].keys is first and ours.get_seq_length() == 5
        others = []
        thread = threading.Thread(target=lambda: others.append(usual.update(first, -first, 0)))
        thread.start()
        thread.join()
        assert others[0][0] is not first, "another thread's caches are as ever"
        got = ours.update(then, -then, 0)
    for one, other in zip(got, usual.update(then, -then, 0)):
        assert torch.equal(one, other)
    assert ours.get_seq_length() == usual.get_seq_length() == 6
    assert DynamicLayer.update(DynamicLayer(), first, -first)[0] is not first
