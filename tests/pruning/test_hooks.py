"""What a block registers is called as asked and gone at its end; compiled code is forgotten."""

import copy
import gc

import pytest
import torch
from torch import nn

from lib.pruning.engine.hooks import Hooks, forget_compiled


class Layer(nn.Module):
    def forward(self, x, *, fail=False):
        if fail:
            raise ZeroDivisionError
        return x + 1


def test_hooks_are_given_all_arguments_and_may_change_them():
    layer, hooks, seen = Layer(), Hooks(), []

    def before(module, args, kwargs):
        seen.append(("before", module, args, kwargs))
        return (args[0] * 2,), kwargs

    def after(module, args, kwargs, output):
        seen.append(("after", module, args, kwargs, output))
        return output * 10

    hooks.add(layer, before, before=True)
    hooks.add(layer, after, before=False)
    assert layer(3, fail=False) == 70
    assert seen == [
        ("before", layer, (3,), {"fail": False}), ("after", layer, (6,), {"fail": False}, 7),
    ]  # fmt: skip
    hooks.close()
    assert layer(3) == 4 and len(seen) == 2
    hooks.close()  # twice is once


def test_only_a_hook_that_always_comes_hears_of_a_forward_that_raises():
    layer, hooks, seen = Layer(), Hooks(), []
    hooks.add(layer, lambda *_: seen.append("after"), before=False)
    hooks.add(layer, lambda *_: seen.append("always"), before=False, always=True)
    with pytest.raises(ZeroDivisionError):
        layer(1, fail=True)
    assert seen == ["always"]
    assert layer(1) == 2 and sorted(seen) == ["after", "always", "always"]
    hooks.close()


def test_what_was_replaced_comes_back_and_what_was_not_there_goes():
    layer, hooks = Layer(), Hooks()
    layer.scale = 3
    plain = copy.deepcopy(vars(layer))
    hooks.replace(layer, "scale", 4)
    hooks.replace(layer, "scale", 5)
    hooks.replace(layer, "forward", lambda x: x * 100)
    hooks.at_end(plain.pop, "training")
    assert layer.scale == 5 and layer(2) == 200
    hooks.close()
    assert layer.scale == 3 and "forward" not in vars(layer) and layer(2) == 3
    assert "training" not in plain


def test_a_module_cannot_be_copied_with_its_hooks():
    layer, hooks = Layer(), Hooks()
    hooks.add(layer, lambda *_: None, before=True)
    with pytest.raises(RuntimeError, match="leave the block first"):
        copy.deepcopy(layer)
    hooks.close()
    assert copy.deepcopy(layer)(1) == 2


def test_only_the_models_own_code_is_compiled_again():
    """Nothing that others compiled is lost, and code that is gone is passed over."""
    dynamo = pytest.importorskip("torch._dynamo")
    dynamo.reset()
    traced = []

    def counting(graph, inputs):
        traced.append(1)
        return graph.forward

    model = nn.Sequential(nn.Linear(2, 2))
    compiled = torch.compile(model, backend=counting)
    namespace = {}
    for name in ("other", "gone"):  # of a file that no module of the model is from
        exec(compile(f"def {name}(x):\n    return x * 3\n", f"{name}.py", "exec"), namespace)
    other = torch.compile(namespace["other"], backend=counting)
    gone = torch.compile(namespace.pop("gone"), backend=counting)
    x = torch.ones(2)
    for call in (compiled, other, gone):
        call(x)
        call(x)
    assert len(traced) == 3
    del gone, call
    gc.collect()
    forget_compiled(model)
    other(x)
    assert len(traced) == 3
    compiled(x)
    assert len(traced) == 4
    dynamo.reset()
