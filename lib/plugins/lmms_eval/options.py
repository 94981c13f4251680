"""A pruning method and its options as they stand on lmms-eval's command line."""

from __future__ import annotations

import ast
import json
from collections.abc import Collection, Mapping
from dataclasses import Field, fields
from typing import Any

from ...pruning import VisualPruner, available, create, registry

#: the unpruned model
UNPRUNED = "none"


def pruner(
    method: str, options: Mapping[str, Any], arguments: Collection[str] = ()
) -> VisualPruner | None:
    """The method with its options, None for `method="none"`.

    options: as lmms-eval reads them, numbers, bools and texts; a sequence is written `[2,5]`, None
        `none`.
    arguments: what the model takes besides, to be named where an option is unknown.

    Raises `ValueError` for a method or an option that there is not, or a value out of range.

    >>> pruner("random", {"keep": 0.25, "layer": 2}).options()["layer"]
    2
    >>> pruner("none", {}) is None
    True
    """
    if method != UNPRUNED and method not in available():
        names = ", ".join([UNPRUNED, *available()])
        raise ValueError(f"there is no pruning method {method!r}; method can be {names}")
    known = {} if method == UNPRUNED else _options(method)
    if unknown := [name for name in options if name not in known]:
        own = ", ".join(known) or "no options"
        raise ValueError(
            f"there is no argument {', '.join(map(repr, unknown))}; method={method} takes {own}; "
            f"the model takes {', '.join(arguments)}"
        )
    if method == UNPRUNED:
        return None
    return create(method, **{name: read(value, known[name]) for name, value in options.items()})


def _options(method: str) -> dict[str, Field]:
    return {f.name: f for f in fields(registry.method(method)) if f.init}


def read(value: Any, option: Field) -> Any:
    """The value of an option from what lmms-eval made of it: a number, a bool or a text.

    Raises `ValueError` where the option takes a number or a sequence, and that is none.
    """
    kind = str(option.type)
    if value == "none" and "None" in kind:
        return None
    if "tuple" in kind:
        return _sequence(value, option.name)
    if kind.startswith(("Literal", "str")):
        return value if isinstance(value, str) else str(value)  # such as a release, 1.5
    if isinstance(value, str):
        raise ValueError(f"{option.name} takes a number, got {value!r}")
    # lmms-eval reads whole numbers below 0 as floats
    whole = isinstance(value, float) and value.is_integer()
    return int(value) if whole and "float" not in kind else value


def _sequence(value: Any, name: str) -> tuple:
    try:
        return tuple(ast.literal_eval(value))
    except (SyntaxError, ValueError, TypeError) as error:
        raise ValueError(f"{name} takes a sequence such as {name}=[2,5], got {value!r}") from error


def mapping(name: str, value: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """A mapping that stands on the command line as JSON.

    Raises `ValueError` if it is none.

    >>> mapping("processor", '{"max_pixels": 1003520}')
    {'max_pixels': 1003520}
    """
    if not isinstance(value, str):
        return dict(value or {})
    try:
        return dict(json.loads(value))
    except (TypeError, ValueError) as error:
        raise ValueError(f'{name} takes JSON such as {{"a": 1}}, got {value!r}') from error
