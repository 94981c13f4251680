"""What can be seen to be wrong before any work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ..records import RECORDS
from .images import ImageError
from .record import ExampleLike


def checked_ids(examples: Sequence[ExampleLike]) -> list[int]:
    """The ids of the images in order; raises unless each is there once and has references."""
    if not len(examples):
        raise ValueError("examples is empty: there is nothing to caption")
    seen: dict[int, ExampleLike] = {}
    for example in examples:
        name = int(example.image_id)
        if name in seen:
            raise ValueError(
                f"image_id {name} occurs twice, for {seen[name].path} and {example.path}"
            )
        if not len(getattr(example, "references", (None,))):
            raise ImageError(f"image without references: {example.path} (image_id {name})")
        seen[name] = example
    return list(seen)


def check_files(examples: Iterable[ExampleLike]) -> None:
    """All missing files at once, before any work."""
    missing = [str(e.path) for e in examples if not Path(e.path).is_file()]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ImageError(f"image file is missing: {', '.join(missing[:5])}{more}")


def checked_slugs(slugs: Iterable[str]) -> None:
    """Names of results folders, one a method."""
    slugs = list(slugs)
    if not slugs:
        raise ValueError("pruners is empty: name at least one method, such as {'unpruned': None}")
    for slug in slugs:
        if not slug or slug != Path(slug).name or slug.startswith("."):
            raise ValueError(
                f"a slug must be a plain folder name such as 'fastv-0.5', got {slug!r}"
            )


def records_folder(records: str | Path) -> Path:
    """The results folder; the path of its `records.jsonl` is understood, too."""
    records = Path(records)
    if records.name == RECORDS:
        return records.parent
    if records.suffix == ".jsonl":
        raise ValueError(f"records must be a folder (or its {RECORDS}), got {records}")
    return records
