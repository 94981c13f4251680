"""Which method runs on which family: asked of the methods themselves, by binding them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .families import resolve
from .registry import available, create


def support_table(
    models: Iterable[Any], methods: Iterable[str] | None = None
) -> dict[str, dict[str, str | None]]:
    """`{method: {family: reason}}`, None where the method runs with its default options.

    models: one of each family, of any size: entering the with-block is all that happens to them.
    methods: names of registered methods, by default all. The reason is what the method says when it
    is bound or entered.
    """
    families = {resolve(model).title: model for model in models}
    names = available() if methods is None else list(methods)
    return {
        name: {title: refusal(name, model) for title, model in families.items()} for name in names
    }


def refusal(method: str, model: Any, **options: Any) -> str | None:
    """Why a method, by default with its own options, does not run on a model; None if it does."""
    try:
        with create(method, **options)(model):
            return None
    except TypeError as error:
        return str(error)


def support_markdown(table: Mapping[str, Mapping[str, str | None]]) -> str:
    """The table in Markdown: a row a method, a column a family, ✓ or –.

    >>> print(support_markdown({"fastv": {"LLaVA": None, "Qwen3-VL": "not yet"}}))
    | method | LLaVA | Qwen3-VL |
    |---|---|---|
    | `fastv` | ✓ | – |
    """
    titles = list(next(iter(table.values())))
    lines = ["| method | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for name, row in table.items():
        marks = ("✓" if row[title] is None else "–" for title in titles)
        lines.append(f"| `{name}` | " + " | ".join(marks) + " |")
    return "\n".join(lines)
