"""What a result depends on: fingerprints of the code that makes it, taken from whole folders.

- Captions: the library (everything in `lib/` but `lib/study` and `lib/plugins`) and
  `lib/study/{models, data, captioning}`. The GPU kernels count where a GPU made them; the static
  decoder never, since captions are made through `generate` (a test says so).
- Divergences: the same, and `lib/study/divergence`.
- Scores: their records and references, and `lib/study/{evaluation, data, comparisons}`.
- Populations: the unpruned model's captions, the library without its GPU kernels and decoder, and
  `lib/study/{models, data, captioning, inspection}` and how captions become tokens.
- Costs: the library, the decoder and kernels included, and `lib/study/{cost, models}`.

The catalogue's captions and divergences are as the others', and its summary as scores and costs.
Beside its folders a stage depends on the module in `lib/study/stages` that carries it out, but for
captions and divergences, whose every setting is in their manifests. Comments, docstrings and empty
lines do not count.
"""

from __future__ import annotations

import ast
import functools
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

from . import paths
from .records import digest

__all__ = [
    "captions_code",
    "catalogue_code",
    "costs_code",
    "divergence_code",
    "population_code",
    "scores_code",
]

STUDY, PLUGINS = "study", "plugins"
DECODER, KERNELS = "decoding", "kernels"
CAPTIONING = ("models", "data", "captioning")


def captions_code(device: str) -> str:
    """A fingerprint of the code that decides the captions made on a device such as "cpu"."""
    return _fingerprint(library=True, study=CAPTIONING, without=_unused(device))


def divergence_code(device: str) -> str:
    """A fingerprint of the code that decides the divergences measured on a device."""
    return _fingerprint(library=True, study=(*CAPTIONING, "divergence"), without=_unused(device))


def population_code() -> str:
    """A fingerprint of the code that measures what the figures show of one image on many."""
    return _fingerprint(
        library=True,
        study=(*CAPTIONING, "divergence/text", "inspection", "stages/population"),
        without={DECODER, KERNELS},
    )


def scores_code() -> str:
    """A fingerprint of the code that scores given captions."""
    made = "comparisons", "evaluation", "data", "stages/readings", "stages/scores"
    return _fingerprint(library=False, study=made)


def catalogue_code() -> str:
    """A fingerprint of the code that summarises the catalogue's records."""
    return _fingerprint(library=False, study=("evaluation", "data", "grid", "stages/ranking"))


def costs_code() -> str:
    """A fingerprint of the code that measures and counts what methods cost."""
    return _fingerprint(library=True, study=("cost", "models", "stages/costs"))


def _unused(device: str) -> set[str]:
    return {DECODER} if device != "cpu" else {DECODER, KERNELS}


def _fingerprint(
    *, library: bool, study: tuple[str, ...], without: set[str] | frozenset[str] = frozenset()
) -> str:
    folder = paths.PACKAGE
    files = [file for name in study for file in _module(folder / STUDY / name)]
    if library:
        others = {STUDY, PLUGINS, *without}
        files += [f for f in folder.rglob("*.py") if _top(f, folder) not in others]
    sources = {file.relative_to(folder).as_posix(): _read(file) for file in set(files)}
    return digest(sources)[:16]


def _top(file: Path, folder: Path) -> str:
    """The module or folder of the first level that a file belongs to."""
    return file.relative_to(folder).parts[0].removesuffix(".py")


def _module(path: Path) -> Iterator[Path]:
    """The files of a module, whether it is one file or a folder."""
    if path.with_suffix(".py").is_file():
        yield path.with_suffix(".py")
    yield from path.rglob("*.py")


def _read(file: Path) -> tuple[str, ...]:
    stat = file.stat()
    return _statements_of(file, stat.st_mtime_ns, stat.st_size)


@functools.cache
def _statements_of(file: Path, changed: int, size: int) -> tuple[str, ...]:
    return tuple(statements(file.read_text(encoding="utf-8")))


def statements(source: str) -> list[str]:
    r"""The lines of a module without comments, docstrings and empty lines.

    Taken from the text: what `ast` unparses to differs between versions of Python, and a newer one
    would take every record for stale.

    >>> statements("def f():  # why\n    return 1")
    ['def f():', '    return 1']
    """
    lines = source.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            _blank(lines, node.body[0])
    return [line.rstrip() for line in lines if line.strip()]


def _blank(lines: list[str], node: ast.stmt) -> None:
    """Take a statement out of the lines; what else stands on them stays."""
    first, last = node.lineno - 1, node.end_lineno - 1
    before = lines[first].encode()[: node.col_offset].decode()
    after = lines[last].encode()[node.end_col_offset :].decode()
    lines[first : last + 1] = [before + after] + [""] * (last - first)
