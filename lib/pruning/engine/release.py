"""How a release of transformers passes masks, positions and caches to a layer.

Releases differ: up to 5.23 a layer takes `past_key_values`, from 5.24 on `cache`. Nothing else in
this package assumes a name; it is asked here, of the signatures of the model at hand.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import masking_utils
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function

from .hooks import replaced_here

#: oldest and newest release the contract was run on
TESTED = ("5.17", "5.24")
REMEDY = (
    f"this library is tested with transformers {TESTED[0]} to {TESTED[1]}: install one of those"
)
#: the names a key/value cache goes by, newest first
CACHE_NAMES = ("cache", "past_key_values")


class UnknownRelease(RuntimeError):
    """The installed transformers does not do what this library relies on."""

    def __init__(self, what: str) -> None:
        super().__init__(f"transformers {transformers.__version__}: {what}; {REMEDY}")


@functools.lru_cache(maxsize=256)
def _signature(function: Callable) -> inspect.Signature:
    return inspect.signature(function)


def parameters(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    """The parameters of a module's forward, decorators seen through."""
    return _signature(type(module).forward).parameters


def cache_name(module: nn.Module) -> str:
    """What the module's forward calls its key/value cache.

    Raises `UnknownRelease` if it takes none.
    """
    for name in CACHE_NAMES:
        if name in parameters(module):
            return name
    raise UnknownRelease(
        f"{type(module).__name__}.forward takes neither of {', '.join(CACHE_NAMES)}"
    )


def given_cache(arguments: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a call, None if there is none."""
    for name in CACHE_NAMES:
        if arguments.get(name) is not None:
            return arguments[name]
    return None


def cache_of(output: Any) -> Any:
    """The cache that a model's output carries, None if it carries none."""
    # newest first: to ask newer outputs for the older name is warned about
    return next((output[name] for name in CACHE_NAMES if name in output), None)


def arguments(module: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a call passes to a module's forward, by name, `**kwargs` included."""
    named = dict(kwargs)
    if args:
        names = list(parameters(module))[1:]  # without self
        named |= dict(zip(names, args))
    return named


def crops_to_a_size() -> bool:
    """True if `Cache.crop` takes a positive number as the size to crop to (up to 5.17)."""
    try:
        DynamicLayer().crop(1)
    except ValueError:
        return False
    return True


def causal_mask(
    config: Any, hidden: Tensor, *, length: int, held: int, key_mask: Tensor | None
) -> Any:
    """The attention mask of `length` new positions behind `held` cached ones.

    In the form the model's attention implementation wants; None where it needs none. key_mask:
    bool `(batch, held + length)`, False where a key must not be attended to.
    """
    return ALL_MASK_ATTENTION_FUNCTIONS[config._attn_implementation](
        batch_size=hidden.shape[0],
        q_length=length,
        kv_length=held + length,
        q_offset=held,
        kv_offset=0,
        mask_function=causal_mask_function,
        attention_mask=key_mask,
        allow_is_causal_skip=True,
        dtype=hidden.dtype,
        config=config,
        device=hidden.device,
    )


def causal_without_mask() -> AbstractContextManager[None]:
    """In the block attention without padding is causal by its flag while a graph is captured.

    Older releases build a mask then, as while they trace; flash attention takes none, so that
    the same call has other kernels than outside of a capture.
    """
    tracing = getattr(masking_utils, "is_tracing", None)
    if tracing is None:  # a release that asks elsewhere builds the mask
        return nullcontext()

    def of_values(tensor: Any = None) -> bool:
        return tensor is not None and tracing(tensor)

    return replaced_here([(masking_utils, "is_tracing", of_values)])


def check(model: nn.Module, layers: nn.ModuleList) -> None:
    """Refuse a release whose layers are called in a way this library does not know.

    Raises `UnknownRelease`; warns once about a release that nobody has tested.
    """
    for layer in {type(layer): layer for layer in layers}.values():
        cache_name(layer)
        for name in ("hidden_states", "attention_mask", "position_embeddings"):
            if name not in parameters(layer):
                raise UnknownRelease(f"{type(layer).__name__}.forward takes no {name}")
    cache_name(model)
    _warn_if_untested(transformers.__version__)


@functools.cache
def _warn_if_untested(version: str) -> None:
    number = tuple(int(part) for part in version.split(".")[:2])
    oldest, newest = (tuple(map(int, tested.split("."))) for tested in TESTED)
    if not oldest <= number <= newest:
        warnings.warn(f"transformers {version} is untested; {REMEDY}", stacklevel=2)


def check_lengths(cache: Any, expected: list[int]) -> None:
    """After a prefill: every layer holds as many positions as it was given.

    Raises `UnknownRelease`: the hooks did not reach what the release computes.
    """
    held = [layer.get_seq_length() for layer in cache.layers]
    if held != expected:
        raise UnknownRelease(f"its cache holds {held} positions by layer instead of {expected}")


def inside_backward() -> bool:
    """True while autograd runs, as when gradient checkpointing computes a layer again."""
    return torch._C._current_graph_task_id() != -1
