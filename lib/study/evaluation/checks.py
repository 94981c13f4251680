"""What is scored must be complete: an error names the images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def some(ids: Iterable[Any]) -> str:
    """The first ten of many ids, sorted."""
    listed = sorted(ids, key=lambda i: (str(type(i)), i))
    more = f" and {len(listed) - 10} more" if len(listed) > 10 else ""
    return f"image_id {', '.join(map(str, listed[:10]))}{more}"


def complete_references(
    references: Mapping[int, Sequence[str]] | Iterable[Any],
) -> dict[int, list[str]]:
    """`{image_id: captions}` of a mapping or of examples; none empty, none blank."""
    if not isinstance(references, Mapping):
        pairs = [(example.image_id, example.references) for example in references]
        if twice := [i for i, count in Counter(i for i, _ in pairs).items() if count > 1]:
            raise ValueError(f"references occur twice: {some(twice)}")
        references = dict(pairs)
    if not references:
        raise ValueError("references are empty: there is nothing to score against")
    for name, texts in references.items():
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"references must be lists of captions: {some([name])}: {texts!r}")
    if broken := [i for i, texts in references.items() if any(map(_broken, texts))]:
        raise ValueError(f"references with half a character (a lone surrogate): {some(broken)}")
    blank = [i for i, texts in references.items() if not texts or not all(map(str.strip, texts))]
    if blank:
        raise ValueError(f"images without references, or with an empty one: {some(blank)}")
    return {name: list(texts) for name, texts in references.items()}


def complete_captions(
    method: str, records: Iterable[Mapping[str, Any]], references: Mapping[int, Any]
) -> dict[int, str]:
    """`{image_id: caption}` of one method, complete."""
    label = f"{method}: " if method else ""
    captions: dict[int, str] = {}
    twice = []
    for record in records:
        try:
            name, text = record["image_id"], record["caption"]
        except (KeyError, TypeError):
            raise ValueError(
                f"{label}a record needs image_id and caption, got {record!r}"
            ) from None
        if not isinstance(text, str):
            raise ValueError(f"{label}the caption of {some([name])} is no text: {text!r}")
        if _broken(text):
            raise ValueError(
                f"{label}the caption of {some([name])} holds half a character (a lone surrogate)"
            )
        if name in captions:
            twice.append(name)
        captions[name] = text
    if twice:
        raise ValueError(f"{label}recorded twice: {some(set(twice))}")
    if unknown := captions.keys() - references.keys():
        raise ValueError(f"{label}recorded images have no references: {some(unknown)}")
    if missing := references.keys() - captions.keys():
        raise ValueError(
            f"{label}images without a record: {some(missing)}. Caption them, or pass the "
            "references of the recorded images only."
        )
    return captions


def _broken(text: str) -> bool:
    """Does a text hold what cannot be written?"""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
