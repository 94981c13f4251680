"""Which method runs on which model family, asked of the methods themselves, by binding them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .families import resolve
from .registry import available, create


class Support(NamedTuple):
    """What a method says to a family.

    reason: why it does not run with its default options, None if it does. original: whether it runs
    with `positions="original"`.
    """

    reason: str | None
    original: bool

    @property
    def mark(self) -> str:
        """✓: runs; o: runs with the original positions; –: does not run."""
        return "✓" if self.reason is None else "o" if self.original else "–"


def support_table(
    models: Iterable[Any], methods: Iterable[str] | None = None
) -> dict[str, dict[str, Support]]:
    """`{method: {family: Support}}`.

    models: one of each family, of any size: entering the with-block is all that happens to them.
    methods: names of registered methods, by default all.
    """
    families = {resolve(model).title: model for model in models}
    names = available() if methods is None else list(methods)
    return {
        name: {title: _support(name, model) for title, model in families.items()} for name in names
    }


def _support(method: str, model: Any) -> Support:
    reason = refusal(method, model)
    return Support(reason, reason is None or refusal(method, model, positions="original") is None)


def refusal(method: str, model: Any, **options: Any) -> str | None:
    """Why a method, by default with its own options, does not run on a model; None if it does."""
    try:
        with create(method, **options)(model):
            return None
    except TypeError as error:
        return str(error)


def support_markdown(table: Mapping[str, Mapping[str, Support]]) -> str:
    """The table in Markdown: a row a method, a column a family, their marks.

    >>> print(support_markdown({"grid": {"LLaVA": Support(None, True), "Qwen": Support("", True)}}))
    | method | LLaVA | Qwen |
    |---|---|---|
    | `grid` | ✓ | o |
    """
    titles = list(next(iter(table.values())))
    lines = ["| method | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for name, row in table.items():
        marks = (row[title].mark for title in titles)
        lines.append(f"| `{name}` | " + " | ".join(marks) + " |")
    return "\n".join(lines)
