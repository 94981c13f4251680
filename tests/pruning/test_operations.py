"""What pruning adds to a pass, in operations: the host of a GPU launches them one by one."""

import functools
from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lib.pruning import create
from lib.pruning.engine.pruner import VisualPruner
from tests.tiny import one, tiny_llava


class Counted(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.found[str(function)] += 1
        return function(*args, **(kwargs or {}))


def operations(depth, name, options):
    """Of a prompt and of a step behind it."""
    model = tiny_llava(layers=depth)
    make = functools.partial(create, name) if isinstance(name, str) else name
    pruner = make(keep=0.5, **options)(model) if name else nullcontext()
    found = []
    with torch.no_grad(), pruner:
        for _ in range(2):  # once a block, lengths are compared
            inputs = one()
            with Counted() as prompt:
                out = model(**inputs, use_cache=True, logits_to_keep=1)
            token = out.logits[:, -1].argmax(-1, keepdim=True)
            given = {"attention_mask": inputs["attention_mask"]}
            given = model._update_model_kwargs_for_generation(out, given)
            ids = torch.cat([inputs["input_ids"], token], 1)
            given = model.prepare_inputs_for_generation(ids, next_sequence_length=1, **given)
            with Counted() as step:
                model(**given, use_cache=True)
        found = prompt.found, step.found
    return found


@pytest.mark.parametrize(
    "name, options", [("random", {}), ("fastv", {}), ("entropy", {}), ("tome", {"layer": 0})]
)
def test_layers_behind_the_choice_launch_what_unpruned_ones_do(name, options):
    deep, shallow = (operations(depth, name, options) for depth in (6, 4))
    plain, shorter = (operations(depth, None, {}) for depth in (6, 4))
    for part in range(2):
        added = deep[part] - shallow[part]
        assert added == plain[part] - shorter[part], part
    waits = "aten._local_scalar_dense.default", "aten.is_nonzero.default"
    assert not deep[1] - plain[1]  # a step prunes nothing, and
    assert not any(deep[1][name] for name in waits) and any(plain[1][name] for name in waits)


class First(VisualPruner):
    """Keeps the first tokens: what is left is what the engine does for any method."""

    def select(self, images):
        place = torch.arange(images.tokens).expand(images.count, -1)
        return place < self.budget(images.tokens)


#: Operations of a prompt beyond an unpruned model's, views included. The engine's: three for the
#: masks that are read back, seven to see that features are finite, five to see that the promised
#: number stays, and what cuts the sequence and its rotary tables; less those that transformers
#: compares two counts with. RandomPrune mixes bits three times, in a dozen operations each.
MOST = {"first": 35, "random": 80, "fastv": 92}


@pytest.mark.parametrize("name", MOST)
def test_a_pruned_prompt_launches_few_operations_more(name):
    plain = operations(4, None, {})[0]
    pruner = First if name == "first" else name
    added = operations(4, pruner, {"layer": 2})[0]
    added.subtract(plain)
    assert 0 < sum(added.values()) <= MOST[name], added
    assert added["aten._local_scalar_dense.default"] < 0  # the host looks less often
