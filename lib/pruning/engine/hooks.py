"""Hooks and replaced methods of one with-block, all undone at its end."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn


@functools.cache
def _untraced() -> Callable:
    """Calls a function where a compiler does not look; it costs a layer more than its hook."""
    return torch.compiler.disable(lambda function, *args: function(*args))


#: the attribute of what takes a method's place
_OURS = "_of_a_pruner"


class _Hook:
    """A forward hook that refuses to follow its module into a copy."""

    def __init__(self, function: Callable) -> None:
        self._function, self._untraced = function, _untraced()

    def __call__(self, *args: Any) -> Any:
        # what a compiler traced would be used again when the hook is gone
        if torch.compiler.is_dynamo_compiling():
            return self._untraced(self._function, *args)
        return self._function(*args)

    def __reduce_ex__(self, protocol: int) -> Any:
        raise RuntimeError(
            "a model cannot be copied or saved as an object inside a pruner's with-block, whose "
            "hooks would stay on the copy; leave the block first"
        )


class Hooks:
    """What a block registers on a model; `close` undoes all of it, also after an exception."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def add(
        self, module: nn.Module, function: Callable, *, before: bool, always: bool = False
    ) -> None:
        """Call `function(module, args, kwargs[, output])` before or after the module's forward.

        always: also when the forward raises.
        """
        if before:
            handle = module.register_forward_pre_hook(_Hook(function), with_kwargs=True)
        else:
            handle = module.register_forward_hook(
                _Hook(function), with_kwargs=True, always_call=always
            )
        self._stack.callback(handle.remove)

    def replace(self, owner: Any, attribute: str, value: Any, *, traced: bool = False) -> None:
        """Set an instance attribute, such as a method, until the end of the block.

        traced: it is a method that a compiler may look into.
        """
        if callable(value) and not traced:
            value = torch.compiler.disable(value)
            setattr(value, _OURS, True)
        if attribute in vars(owner):
            self._stack.callback(setattr, owner, attribute, vars(owner)[attribute])
        else:
            self._stack.callback(delattr, owner, attribute)
        setattr(owner, attribute, value)

    def at_end(self, function: Callable, *args: Any) -> None:
        """Call `function(*args)` when the block ends."""
        self._stack.callback(function, *args)

    def close(self) -> None:
        self._stack.close()


def hooks_inside(modules: Iterable[nn.Module]) -> tuple[tuple[int, int], ...] | None:
    """How many hooks `Hooks` has before and behind each of the modules.

    None if somebody else has any, or has given a module another forward or compiled it; not so for
    transformers, which collects hidden states with some.
    """
    everywhere, found = nn.modules.module, []
    if everywhere._global_forward_pre_hooks or everywhere._global_forward_hooks:
        return None
    for module in modules:
        forward, ours = vars(module).get("forward"), [0, 0]
        if forward is not None and not hasattr(forward, _OURS):
            return None
        if module._compiled_call_impl is not None:
            return None
        for behind, hooks in enumerate((module._forward_pre_hooks, module._forward_hooks)):
            for hook in hooks.values():
                if isinstance(hook, _Hook):
                    ours[behind] += 1
                elif not (getattr(hook, "__module__", None) or "").startswith("transformers."):
                    return None
        found.append((ours[0], ours[1]))
    return tuple(found)


_REPLACING = threading.RLock()


@contextmanager
def replaced_here(functions: Iterable[tuple[Any, str, Callable]]) -> Iterator[None]:
    """Give attributes of modules or objects other functions, for this thread alone.

    functions: `(owner, attribute, function)`. One block at a time in the process; what was there
    serves other threads, and is put back however the block ends.
    """
    own = threading.get_ident()

    def here(before: Callable, function: Callable) -> Callable:
        def called(*args: Any, **kwargs: Any) -> Any:
            return (function if threading.get_ident() == own else before)(*args, **kwargs)

        return called

    with _REPLACING, ExitStack() as stack:
        for owner, attribute, function in functions:
            before = getattr(owner, attribute)
            if attribute in vars(owner):
                stack.callback(setattr, owner, attribute, before)
            else:
                stack.callback(delattr, owner, attribute)
            setattr(owner, attribute, here(before, function))
        yield


def forget_compiled(model: nn.Module) -> None:
    """Make torch.compile trace the model's classes again.

    Compiled code does not notice that hooks come and go: a model compiled before the block would
    run unpruned in it, one compiled in the block pruned after it.
    """
    if "torch._dynamo" not in sys.modules:  # nothing was compiled
        return
    from torch._dynamo import convert_frame, eval_frame, external_utils  # loaded as it is

    files = {sys.modules[type(module).__module__].__file__ for module in model.modules()}
    files.add(external_utils.__file__)
    for known in (*convert_frame.input_codes.seen, *convert_frame.output_codes.seen):
        code = known()
        # frames of the model's classes, and the pieces between their graph breaks
        if code is not None and (code.co_filename in files or _SHARED in code.co_filename):
            eval_frame.remove_from_cache(code)


#: where transformers keeps the wrappers around its models' methods
_SHARED = str(Path("transformers") / "utils")
