"""The catalogue page: every registered method from its docstring and class, and what budgets mean.

`python -m lib report docs` writes docs/catalogue.md.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator

from ...geometry import average_tokens
from ...pruning import available, create
from ...pruning.engine.pruner import VisualPruner
from ...pruning.registry import method
from ..paths import PACKAGE

PAGE = PACKAGE.parent / "docs" / "catalogue.md"
#: the line of a docstring that begins what it says of an option, or of several
_OPTION = re.compile(r"^([a-z_]+(?:, [a-z_]+)*): ")
#: LLaVA-1.5-7B: visual tokens of an image, layers of the language model
TOKENS, DEPTH = 576, 32

#: settings as they were published: (whose, what the setting is called, method, options)
PUBLISHED = (
    ("FastV", "K = 2, half", "fastv", {"keep": 0.5}),
    ("FastV", "K = 2, 192 kept", "fastv", {"keep": 192 / 576}),
    ("FastV", "K = 2, 128 kept", "fastv", {"keep": 128 / 576}),
    ("FastV", "K = 2, 64 kept", "fastv", {"keep": 64 / 576}),
    ("PyramidDrop", "default", "pyramiddrop", {}),
    ("SparseVLM 1.5", "192", "sparsevlm", {"schedule": "192"}),
    ("SparseVLM 1.5", "128", "sparsevlm", {"schedule": "128"}),
    ("SparseVLM 1.5", "96", "sparsevlm", {"schedule": "96"}),
    ("SparseVLM 1.5", "64", "sparsevlm", {"schedule": "64"}),
    ("SparseVLM+", "192", "sparsevlm", {"version": "2", "schedule": "192"}),
    ("SparseVLM+", "128", "sparsevlm", {"version": "2", "schedule": "128"}),
    ("SparseVLM+", "96", "sparsevlm", {"version": "2", "schedule": "96"}),
    ("SparseVLM+", "64", "sparsevlm", {"version": "2", "schedule": "64"}),
    ("DART", "128 (r = .778)", "dart", {"keep": 1 - 0.778, "count": "published"}),
    ("DART", "64 (r = .889)", "dart", {"keep": 1 - 0.889, "count": "published"}),
    ("V2Drop", "default", "v2drop", {}),
    ("PriorTR", "192 kept", "priortr", {"keep": 192 / 576}),
    ("PriorTR", "64 kept", "priortr", {"keep": 64 / 576}),
    ("EntropyPrune (namesake)", "192", "head-entropy", {"average": 192}),
    ("EntropyPrune (namesake)", "128", "head-entropy", {"average": 128}),
    ("EntropyPrune (namesake)", "64", "head-entropy", {"average": 64}),
)
#: the same for what is no selection: (whose, setting, tokens kept, layer)
POOLED = (
    ("LLaVolta", "heavy: stride 8 before layer 2", 72, 2),
    ("LLaVolta", "light: stride 8 before layer 16", 72, 16),
    ("before the language model", "192", 192, 0),
    ("before the language model", "128", 128, 0),
    ("before the language model", "64", 64, 0),
)


def published() -> list[tuple[str, str, str, float]]:
    """Whose, setting, tokens left behind each stage, and what they average to over the layers."""
    rows = []
    for who, setting, name, options in PUBLISHED:
        pruner = create(name, **options)
        left = ", ".join(str(count) for _, count in pruner.stage_counts(TOKENS, DEPTH))
        rows.append((who, setting, left, sum(pruner.layer_counts(TOKENS, DEPTH)) / DEPTH))
    for who, setting, kept, layer in POOLED:
        average = average_tokens(kept, tokens=TOKENS, layer=layer, layers=DEPTH)
        rows.append((who, setting, str(kept), average))
    return rows


def place(pruner: VisualPruner) -> str:
    """Where the method prunes in a model of `DEPTH` layers.

    >>> place(create("fastv")), place(create("random")), place(create("pyramiddrop"))
    ('before layer 2', 'before the language model', 'before layers 8, 16 and 24')
    """
    layers = [str(layer) for layer, _ in pruner.stage_counts(TOKENS, DEPTH)]
    if layers == ["0"]:
        return "before the language model"
    if len(layers) == 1:
        return f"before layer {layers[0]}"
    return f"before layers {', '.join(layers[:-1])} and {layers[-1]}"


def keeps(pruner: VisualPruner) -> str:
    """What stays: how many, and in which form and order.

    >>> keeps(create("fastv"))
    'exactly the budget, at its place, in raster order'
    """
    count = "exactly the budget" if pruner.exact else "a number that varies by image"
    form = "merged tokens among them" if pruner.merges else None
    where = "at its place" if pruner.positions == "original" else "renumbered"
    order = "reordered" if pruner.reorders else "in raster order"
    return ", ".join(filter(None, [count, form, where, order]))


def page() -> str:
    """The catalogue as Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Catalogue of pruning methods"
    yield ""
    yield f"""Written by `python -m lib report docs` from the methods themselves. Layers are
those of a language model with {DEPTH} layers, counted from 0; the average is that of the default
options over its layers, of {TOKENS} visual tokens.
"""
    yield "| method | prunes | keeps | average |"
    yield "|---|---|---|---:|"
    for name in available():
        pruner = create(name)
        average = sum(pruner.layer_counts(TOKENS, DEPTH)) / DEPTH
        bound = "" if pruner.exact else "at most "
        yield f"| [`{name}`](#{name}) | {place(pruner)} | {keeps(pruner)} | {bound}{average:.1f} |"
    yield ""
    yield "## What published budgets average to"
    yield ""
    yield """Papers count kept tokens, or tokens averaged over layers, or the label of a schedule.
The average is what the language model's work depends on: visual tokens that a layer processes, over
all layers. `create(name, average=128)` asks for it; a float, such as `average=1/3`, for a share of
the image's tokens. `pruner.average_tokens()` and `pruner.kept_counts` report both of the last
prefill.
"""
    yield f"| published as | setting | left of {TOKENS} | average |"
    yield "|---|---|---|---:|"
    for who, setting, left, average in published():
        yield f"| {who} | {setting} | {left} | {average:.1f} |"
    for name in available():
        yield from _entry(name)


def _entry(name: str) -> Iterator[str]:
    kind = method(name)
    module = inspect.getdoc(sys.modules[kind.__module__]) or ""
    yield ""
    yield f"## {name}"
    yield ""
    yield f"`{kind.__module__}.{kind.__name__}`. {module.splitlines()[0]}"
    yield ""
    for line in inspect.cleandoc(kind.__doc__ or "").splitlines():
        yield _OPTION.sub(r"- `\1`: ", line.rstrip())
