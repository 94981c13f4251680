"""The vision tower launched as one captured graph, where the host launches it slower than it runs.

A tower of few rows is hundreds of small kernels. In a prompt read plainly the device waits for the
host to launch them, and pruning adds to what the host does.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from .graphs import GraphCache
from .hooks import hooks_inside

if TYPE_CHECKING:
    from .pruner import VisualPruner

#: numbers of a batch of pixels up to which it is replayed: those of three pictures of 336 x 336
_REPLAYED = 1 << 20
#: whose modules do the same at every call, but for the settings of their configuration
_PLAIN = ("torch.", "transformers.")
_SETTINGS = ("_attn_implementation", "output_attentions", "output_hidden_states", "return_dict")
#: what else a call may be given, beside tensors and tuples and lists of all these
_SIMPLE = (type(None), bool, int, float, str)
#: what a method's hooks write into a record while the tower works
_WRITTEN = ("hidden", "projections", "context", "extra")

#: the graphs of all towers of this process
towers = GraphCache(size=4)


def replay_tower(pruner: VisualPruner) -> None:
    """Replay the tower in a with-block, from the second call with arguments of one kind on.

    A graph is kept beyond the block, for others with the same options, until `towers.clear()`. What
    it leaves is copied, so that the outputs and records of several calls stay apart. The tower runs
    plainly where gradients are wanted, in training, under autocast, a compiler or another capture,
    for more than `_REPLAYED` numbers, and where somebody else has hooks inside, or modules, such as
    adapters that can be switched off, or has given one another forward, or has quantised its
    weights; a method of somebody else's may have no hooks inside. Weights may change where they
    are, other attributes of modules not. `towers.enabled = False` turns it off.
    """
    family, current = pruner.family, pruner._current
    tower = family.tower
    inside, original = [m for m in tower.modules() if m is not tower], tower.forward
    hooks = hooks_inside(inside)
    if pruner.keeps_all or family.tokens_each() is None:
        return
    if hooks is None or not _plain(tower, inside):
        return
    about: tuple = tuple(map(weakref.ref, (tower, *inside)))
    parts = _parts(tower, inside)
    if any(map(any, hooks)) or any("forward" in vars(module) for module in inside):
        if type(pruner).__module__.partition(".")[0] != __name__.partition(".")[0]:
            return
        about += type(pruner), repr(pruner), hooks  # else it is the same for all pruners

    def forward(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling() or current.record is None:
            return original(*args, **kwargs)
        left = Left.of((args, sorted(kwargs.items())))
        record, given = current.record, left.form
        if not _suits(inside, left.tensors) or not _simple(given):
            return original(*args, **kwargs)
        if hooks_inside(inside) != hooks or _parts(tower, inside) != parts:
            return original(*args, **kwargs)

        def run(inputs: list[Tensor]) -> Left:
            outer = current.record
            current.record = dataclasses.replace(record, **{name: {} for name in _WRITTEN})
            current.tower_alone = True
            try:
                positional, named = Left(inputs, given).whole()
                output = original(*positional, **dict(named))
                written = {name: getattr(current.record, name) for name in _WRITTEN}
            finally:
                current.record, current.tower_alone = outer, False
            return Left.of((output, written))

        key = about, repr(given), _state(tower, inside)
        output, written = towers(key, run, left.tensors).whole()
        for name, values in written.items():
            getattr(record, name).update(values)
        return output

    pruner.hooks.replace(tower, "forward", forward, traced=True)


def _plain(tower: nn.Module, inside: Sequence[nn.Module]) -> bool:
    """True if what a tower computes with is told by its modules and `_state`."""
    weights = (*tower.parameters(), *tower.buffers())
    return (
        "forward" not in vars(tower)
        and all(type(one) in (Tensor, nn.Parameter) for one in weights)
        and all(type(module).__module__.startswith(_PLAIN) for module in inside)
    )


def _parts(tower: nn.Module, inside: Sequence[nn.Module]) -> list[int]:
    """What tells a tower from one with other modules in it, as long as all are there."""
    return [id(part) for module in (tower, *inside) for part in module._modules.values()]


def _on_gpu(tensors: Sequence[Tensor]) -> bool:
    return bool(tensors) and tensors[0].is_cuda and not torch.cuda.is_current_stream_capturing()


def _suits(inside: Sequence[nn.Module], tensors: Sequence[Tensor]) -> bool:
    return (
        _on_gpu(tensors)
        and all(tensor.is_contiguous() for tensor in tensors)
        and sum(tensor.numel() for tensor in tensors) <= _REPLAYED
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cuda")  # whose copies of weights go when it ends
        and not any(module.training for module in inside)
        # somebody counts operations, or changes them
        and not (torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack())
    )


def _state(tower: nn.Module, inside: Sequence[nn.Module]) -> Hashable:
    """What a tower computes with besides its modules and arguments."""
    weights = tuple(
        (tensor.data_ptr(), tensor.dtype)
        for module in (tower, *inside)
        for own in (module._parameters, module._buffers)
        for tensor in own.values()
        if tensor is not None
    )
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    return (
        weights,
        tuple(repr(getattr(tower.config, name, None)) for name in _SETTINGS),
        (torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()),
        (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
        (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()),
        cuda.cudnn_sdp_enabled(),
    )


class _Place(NamedTuple):
    """Stands for a tensor of a list."""

    index: int


@dataclass(eq=False)
class Left:
    """A value as its tensors, each once, and what has their places instead of them."""

    tensors: list[Tensor]
    form: Any

    @classmethod
    def of(cls, value: Any) -> Left:
        found: dict[int, int] = {}
        tensors: list[Tensor] = []

        def place(tensor: Tensor) -> _Place:
            if id(tensor) not in found:
                found[id(tensor)] = len(tensors)
                tensors.append(tensor)
            return _Place(found[id(tensor)])

        return cls(tensors, _mapped(value, Tensor, place))

    def whole(self) -> Any:
        """The value."""
        return _mapped(self.form, _Place, lambda place: self.tensors[place.index])

    def clone(self) -> Left:
        """The same with other tensors."""
        copies = [torch.empty_like(tensor) for tensor in self.tensors]
        torch._foreach_copy_(copies, self.tensors)
        return Left(copies, self.form)


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


def _simple(form: Any) -> bool:
    """True if all of it is told by its representation."""
    if isinstance(form, (tuple, list)):
        return all(map(_simple, form))
    return type(form) in _SIMPLE
