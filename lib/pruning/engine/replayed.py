"""The vision tower launched as one captured graph, where the host launches it slower than it runs.

A tower of few rows is hundreds of small kernels. In a prompt read plainly the device waits for the
host to launch them, and pruning adds to what the host does.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from .graphs import GraphCache
from .hooks import others_inside, set_inside

if TYPE_CHECKING:
    from .pruner import VisualPruner

#: numbers of a batch of pixels up to which it is replayed: those of three pictures of 336 x 336
_REPLAYED = 1 << 20
#: whose modules do the same at every call, but for the settings of their configuration
_PLAIN = ("torch.", "transformers.")
_SETTINGS = ("_attn_implementation", "output_attentions", "output_hidden_states", "return_dict")
#: what a method's hooks write into a record while the tower works
_WRITTEN = ("hidden", "projections", "context", "extra")

#: the graphs of all towers of this process
towers = GraphCache(size=4)
#: how what a graph leaves is put together, by its key
_forms: OrderedDict[Hashable, Any] = OrderedDict()


def replay_tower(pruner: VisualPruner) -> None:
    """Replay the tower in a with-block, from the second call with arguments of one kind on.

    A graph is kept beyond the block, for others with the same options. What it leaves is copied, so
    that the outputs and records of several calls stay apart. The tower runs plainly where gradients
    are wanted, in training, under a compiler or another capture, for more than `_REPLAYED` numbers,
    and where anybody else has hooks inside, or modules, such as adapters that can be switched off,
    or has given one another forward, or has quantised its weights; always with
    `towers.enabled = False`.
    """
    family, current = pruner.family, pruner._current
    tower = family.tower
    inside, original = [m for m in tower.modules() if m is not tower], tower.forward
    if pruner.keeps_all or family.tokens_each() is None or not _plain(tower, inside):
        return
    about: tuple = (weakref.ref(tower),)
    if any(map(any, hooks := set_inside(inside))) or any("forward" in vars(m) for m in inside):
        about += type(pruner), repr(pruner), hooks  # else it is the same for all pruners
    parts = _parts(tower, inside)

    def forward(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling() or current.record is None:
            return original(*args, **kwargs)
        tensors, given = _taken_apart((args, tuple(sorted(kwargs.items()))))
        if not _suits(inside, tensors) or _parts(tower, inside) != parts:
            return original(*args, **kwargs)
        record, key = current.record, (about, given, _state(tower, inside))
        try:
            hash(key)
        except TypeError:  # given something of which nothing is known
            return original(*args, **kwargs)

        def run(inputs: list[Tensor]) -> list[Tensor]:
            outer = current.record
            current.record = dataclasses.replace(record, **{name: {} for name in _WRITTEN})
            current.tower_alone = True
            try:
                positional, named = _put_together(given, inputs)
                output = original(*positional, **dict(named))
                written = {name: getattr(current.record, name) for name in _WRITTEN}
            finally:
                current.record, current.tower_alone = outer, False
            left, form = _taken_apart((output, written))
            _keep(key, form)
            return left

        left = towers(key, run, tensors)
        _forms.move_to_end(key)
        output, written = _put_together(_forms[key], left)
        for name, values in written.items():
            getattr(record, name).update(values)
        return output

    pruner.hooks.replace(tower, "forward", forward, traced=True)


def _on_gpu(tensors: Sequence[Tensor]) -> bool:
    return bool(tensors) and tensors[0].is_cuda and not torch.cuda.is_current_stream_capturing()


def _plain(tower: nn.Module, inside: Sequence[nn.Module]) -> bool:
    """True if all that a tower computes with is told by `_state`."""
    weights = (*tower.parameters(), *tower.buffers())
    return (
        "forward" not in vars(tower)
        and all(type(one) in (Tensor, nn.Parameter) for one in weights)
        and all(type(module).__module__.startswith(_PLAIN) for module in inside)
    )


def _parts(tower: nn.Module, inside: Sequence[nn.Module]) -> list[int]:
    """What tells a tower from one with other modules in it."""
    return [id(part) for module in (tower, *inside) for part in module._modules.values()]


def _suits(inside: Sequence[nn.Module], tensors: Sequence[Tensor]) -> bool:
    return (
        _on_gpu(tensors)
        and all(tensor.is_contiguous() for tensor in tensors)
        and sum(tensor.numel() for tensor in tensors) <= _REPLAYED
        and not torch.is_grad_enabled()
        and not any(module.training for module in inside)
        and not torch._C._len_torch_dispatch_stack()  # somebody counts operations
        and not others_inside(inside)
    )


def _state(tower: nn.Module, inside: Sequence[nn.Module]) -> Hashable:
    """What a tower computes with besides its arguments; weights may change where they are."""
    weights = tuple(
        tensor.data_ptr()
        for module in (tower, *inside)
        for own in (module._parameters, module._buffers)
        for tensor in own.values()
        if tensor is not None
    )
    automatic = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda")
    precision = torch.get_float32_matmul_precision()
    settings = tuple(getattr(tower.config, name, None) for name in _SETTINGS)
    return weights, settings, automatic, precision


def _keep(key: Hashable, form: Any) -> None:
    _forms[key] = form
    while len(_forms) > 32 * towers.size:  # more than the cache remembers keys
        _forms.popitem(last=False)


class _Place(NamedTuple):
    """Stands for a tensor of a list."""

    index: int


def _taken_apart(value: Any) -> tuple[list[Tensor], Any]:
    """The tensors in a value, each once, and the value with their places instead of them."""
    found: dict[int, int] = {}
    tensors: list[Tensor] = []

    def place(tensor: Tensor) -> _Place:
        if id(tensor) not in found:
            found[id(tensor)] = len(tensors)
            tensors.append(tensor)
        return _Place(found[id(tensor)])

    return tensors, _mapped(value, Tensor, place)


def _put_together(form: Any, tensors: Sequence[Tensor]) -> Any:
    return _mapped(form, _Place, lambda place: tensors[place.index])


def _mapped(value: Any, kind: type, function: Callable) -> Any:
    """The value with everything of a kind in it changed."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, ModelOutput):
        return type(value)(**{name: _mapped(one, kind, function) for name, one in value.items()})
    if isinstance(value, dict):
        return {name: _mapped(one, kind, function) for name, one in value.items()}
    if isinstance(value, (tuple, list)):
        made = [_mapped(one, kind, function) for one in value]
        return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
    return value
