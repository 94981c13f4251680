"""Options that several commands share, each spelt once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer

Value = TypeVar("Value", str, int, float)

Profile = Annotated[str, typer.Option("--profile", help="a profile of notebooks/profiles")]
Model = Annotated[str, typer.Option("--model", help="embedded, a hub id, or a local folder")]
Device = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda, cuda:1, ...; default the GPU if there is one"),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress bars")]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, help="processes that caption; default two on a CPU, one a GPU"
    ),
]
Place = Annotated[
    Literal["run", "reference"],
    typer.Option("--place", help="what this machine has computed, or what is committed"),
]
Methods = Annotated[str, typer.Option("--method", help="one or several, with commas between them")]


def several(text: str, kind: Callable[[str], Value], option: str) -> list[Value]:
    """The values of an option that takes several, with commas between them.

    Raises `ValueError`, naming the option.

    >>> several("1, 8,32", int, "--batches")
    [1, 8, 32]
    """
    parts = [part for part in text.replace(",", " ").split() if part]
    try:
        return [kind(part) for part in parts]
    except ValueError:
        raise ValueError(
            f"{option} takes values such as 1,8,32 with commas between them, got {text!r}"
        ) from None


def shown(path: Path, here: Path | None = None) -> str:
    """A path as a message shows it: from `here`, the current folder, if it lies below it."""
    here = here or Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
