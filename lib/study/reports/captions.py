"""The words of the figures: titles, captions and text alternatives of `captions.yaml`.

Each is a template for `str.format`; what depends on numbers is filled from those that the notebook
has computed, so that no sentence can disagree with its figure.
"""

from __future__ import annotations

import functools
import string
from pathlib import Path
from typing import Any, NamedTuple

import yaml

__all__ = ["Words", "known", "words"]

FILE = Path(__file__).with_name("captions.yaml")


class Words(NamedTuple):
    """A figure's claim, what stands under it, and a text for those who do not see it."""

    title: str
    caption: str
    alt: str


@functools.cache
def known() -> dict[str, dict[str, str]]:
    """All of `captions.yaml`: `{figure: {"title", "caption", "alt"}}`."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def words(name: str, **numbers: Any) -> Words:
    """The words of a figure, filled from `numbers`.

    Raises:
        ValueError: no such figure, a number its words need is missing, or one is given that they
            do not use.

    >>> words("walkthrough_budgets", tokens=256, source="s").title
    'What Algorithm 1 keeps of 256 patches'
    """
    if name not in known():
        raise ValueError(f"{FILE.name} has no figure {name!r}; there are {', '.join(known())}")
    texts = {part: (known()[name].get(part) or "").strip() for part in Words._fields}
    needed = {field for text in texts.values() for field in _fields(text)}
    # the source of a figure is known in any case; its words need not name it
    for what, which in (
        ("needs", needed - numbers.keys()),
        ("does not use", numbers.keys() - needed - {"source"}),
    ):
        if which:
            raise ValueError(f"figure {name!r} of {FILE.name} {what} {', '.join(sorted(which))}")
    return Words(**{part: text.format(**numbers) for part, text in texts.items()})


def _fields(text: str) -> list[str]:
    return [field for _, field, _, _ in string.Formatter().parse(text) if field]
