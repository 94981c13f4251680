"""A model that `torch.compile` has wrapped is pruned in the block, and only there.

Each case traces every layer again, for seconds: as few layers as the method needs.
"""

import pytest
import torch

from lib.pruning import create
from tests.tiny import one, tiny_llava

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _dynamo(monkeypatch):
    dynamo = pytest.importorskip("torch._dynamo")
    dynamo.reset()
    # how fast guards are, behind a flush of the cache, is only logged: a third of the time
    monkeypatch.setattr("torch._dynamo.guards.profile_guard_manager", lambda *_: 0.0)
    with torch.no_grad():
        yield
    dynamo.reset()


def kept(pruner):
    return [k.tolist() for k in pruner.kept]


@pytest.mark.parametrize(
    "name, options, layers, when", [("fastv", {"layer": 1}, 2, "before"), ("tome", {}, 1, "inside")]
)
def test_a_compiled_model_is_pruned_in_the_block_and_only_there(name, options, layers, when):
    model, inputs = tiny_llava(layers=layers, tower=2), one()
    plain = model(**inputs).logits
    with create(name, **options)(model) as pruner:
        want, sets = model(**inputs).logits, kept(pruner)
    compiled = torch.compile(model, backend="eager")
    if when == "before":
        compiled(**inputs)
    with create(name, **options)(model) as pruner:
        got = compiled(**inputs).logits
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
        assert kept(pruner) == sets
    torch.testing.assert_close(compiled(**inputs).logits, plain, atol=1e-5, rtol=1e-5)


def test_the_compiled_wrapper_itself_can_be_bound():
    model, inputs = tiny_llava(layers=1, tower=2), one()
    compiled = torch.compile(model, backend="eager")
    with create("random")(compiled):
        assert compiled(**inputs).logits.shape[1] == inputs["input_ids"].shape[1] - 18
