"""The pruning methods by name: each file of this package registers its own."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine.pruner import VisualPruner

_REGISTRY: dict[str, type[VisualPruner]] = {}


def register(name: str, method: type[VisualPruner]) -> None:
    """Make a method known by a name.

    Raises `ValueError` if another class has it.
    """
    known = _REGISTRY.get(name)
    if known is not None and known.__qualname__ != method.__qualname__:
        raise ValueError(f"a pruning method named {name!r} exists: {known}")
    _REGISTRY[name] = method


def available() -> list[str]:
    """Names of all registered pruning methods.

    >>> "fastv" in available()
    True
    """
    return sorted(_REGISTRY)


def method(name: str) -> type[VisualPruner]:
    """The class of a registered method.

    Raises `ValueError` for an unknown name.

    >>> method("fastv").__name__
    'FastV'
    """
    if name not in _REGISTRY:
        raise ValueError(f"unknown pruning method {name!r}; available: {', '.join(available())}")
    return _REGISTRY[name]


def create(name: str, **options: Any) -> VisualPruner:
    """The registered method `name`, built with `options`.

    Raises `ValueError` for an unknown name and for options the method does not have.

    >>> create("random", keep=0.25).keep
    0.25
    """
    kind = method(name)
    known = [f.name for f in fields(kind) if f.init]
    if unknown := set(options) - set(known):
        raise ValueError(
            f"{name} has no option {', '.join(map(repr, sorted(unknown)))}; "
            f"its options: {', '.join(known)}"
        )
    return kind(**options)


def discover(package: Any) -> Iterator[str]:
    """Import every module of a package, so that each file registers its method."""
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
        yield module.name
