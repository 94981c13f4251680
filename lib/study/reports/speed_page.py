"""The tables of docs/speed.md, from the stored measurements.

`python -m lib report docs` writes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .. import paths
from ..cost.choices import RULES
from .card import table
from .tables.benchmark import LABELS

__all__ = ["PAGE", "blocks"]

PAGE = paths.PACKAGE.parent / "docs" / "speed.md"
IN_TURN = {
    "random": "RandomPrune",
    "entropy": "Entropy-Prune",
    "selection": "Entropy + coverage",
    "weighted": "Attention-weighted coverage",
    "unpruned": "Unpruned",
}
GROWING = {"fastv": "FastV", "entropy": "Entropy-Prune", "adaptive": "Entropy + coverage"}
QWEN = {"shape-qwen2_5-vl": "Qwen2.5-VL-7B", "shape-qwen3-vl": "Qwen3-VL-8B"}

Row = Mapping[str, Any]


def blocks() -> dict[str, str]:
    """`{marker: Markdown}` of every table."""
    found = _stored("shape", "benchmark.json")
    return {
        "speed": _speed(found),
        "first-token": _first_tokens(found),
        "plainly": _plainly(found),
        "choices": _choices(_stored("shape", "choices.json")),
        "growth": _growth(found, _stored("shape", "choices.json")),
        "step": _step(found),
        "qwen": _qwen(),
        "scaling": _scaling(_stored("shape", "scaling.json")),
        "captioning": _captioning(_stored("shape", "captioning.json")),
    }


def _stored(profile: str, name: str) -> dict[str, Any]:
    path = paths.reference(profile).results / name
    return json.loads(path.read_text(encoding="utf-8"))


def _ms(row: Row | None, part: str, digits: int = 1) -> str:
    return "–" if row is None or part not in row else f"{1e3 * row[part]['median']:,.{digits}f}"


def _speed(found: Row) -> str:
    rows = {(r["method"], r["batch"]): r for r in found["rows"] if r["new_tokens"] == 64}
    head = ["50 % of the tokens", "scorer", "first token, batch 1", "batch 8", "batch 32"]
    head += ["a token", "64 tokens: `generate`", "fast path", "cache (MB)"]
    lines = []
    for name, label in LABELS.items():
        first = rows[name, 1]
        scorer = "–" if name == "unpruned" else _ms(first, "scorer", 2)
        lines.append([
            label, scorer, *(_ms(rows.get((name, b)), "static_prefill") for b in (1, 8, 32)),
            _ms(first, "static_decode", 2), _ms(first, "end_to_end", 0),
            _ms(first, "static_end_to_end", 0), f"{first['cache_bytes'] / 1e6:.0f}",
        ])  # fmt: skip
    return table(head, lines)


def _first_tokens(found: Row) -> str:
    keys = ("method", "batch", "against", "way", "layer")
    rows = {tuple(row.get(key) for key in keys): row["ratio"] for row in found["first_token"]}
    lines = [
        [label, *(_interval(rows[name, batch, "fastv", "captured", 2]) for batch in (1, 8, 32))]
        for name, label in IN_TURN.items()
    ]
    return table(["before layer 2", "batch 1", "batch 8", "batch 32"], lines)


def _plainly(found: Row) -> str:
    keys = ("method", "way", "batch", "against", "layer")
    rows = {tuple(row.get(key) for key in keys): row["ratio"] for row in found["first_token"]}
    names = {"fastv": "FastV", **IN_TURN}
    lines = [
        [names[name], *(_interval(rows[name, way, 1, "unpruned", 2]) for way in ("plain", "step"))]
        for name in names
        if name != "unpruned"
    ]
    return table(["before layer 2, batch 1", "prompt", "a step"], lines)


def _interval(ratio: Row) -> str:
    return f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"


def _choices(found: Row) -> str:
    rows = {(r["rule"], r["kept"], r["batch"]): r for r in found["choices"] if r["tokens"] == 576}
    cases = [(64, 1), (288, 1), (64, 32), (288, 32)]
    head = [f"{kept} of 576, batch {batch}" for kept, batch in cases]
    lines = [
        [rule, *(f"{1e3 * rows[rule, k, b]['seconds']['median'] / b:.3f}" for k, b in cases)]
        for rule in RULES  # rows measured again stand last in the record
    ]
    return table(["ms an image", *head], lines)


def _growth(found: Row, choices: Row) -> str:
    rows = {(r["method"], r["tokens"]): r for r in found["growth"] if r["batch"] == 1}
    alone = {
        (r["rule"], r["tokens"]): r["seconds"]["median"]
        for r in choices["choices"]
        if r["batch"] == 1 and 2 * r["kept"] == r["tokens"]
    }
    lines = []
    for tokens in sorted({tokens for _, tokens in rows}):
        cells = [f"{tokens:,}", _ms(rows["unpruned", tokens], "static_prefill")]
        for name, label in GROWING.items():
            cell = _ms(row := rows.get((name, tokens)), "static_prefill")
            if row is not None and (label, tokens) in alone:
                cell += f" ({100 * alone[label, tokens] / row['static_prefill']['median']:.1f} %)"
            cells.append(cell)
        lines.append(cells)
    return table(["visual tokens", "Unpruned", *GROWING.values()], lines)


def _step(found: Row) -> str:
    (row,) = [r for r in found["step"] if r["batch"] == 1 and r["compiled"]]
    lines = [[f"`{k['name']}`", f"{k['count']:.0f}", f"{1e3 * k['seconds']:.2f}"]
             for k in row["kernels"]]  # fmt: skip
    rest = row["busy"] - sum(k["seconds"] for k in row["kernels"])
    lines += [
        ["other kernels", "", f"{1e3 * rest:.2f}"],
        ["between kernels", "", f"{1e3 * (row['seconds'] - row['busy']):.2f}"],
        ["a step", "", f"{1e3 * row['seconds']:.2f}"],
        ["its weights and cache read once", "", f"{1e3 * row['floor']:.2f}"],
    ]
    return table(["kernel", "times", "ms"], lines)


def _qwen() -> str:
    head = ["", "tokens", "method", "first token", "scorer", "peak memory (GB)"]
    labels = {"unpruned": "Unpruned", "random": "RandomPrune", **GROWING}
    lines = [
        [
            title, f"{row['tokens']:,}", labels[row["method"]], _ms(row, "static_prefill"),
            _ms(row, "scorer", 2), f"{row['peak_bytes'] / 1e9:.1f}",
        ]
        for profile, title in QWEN.items()
        for row in _stored(profile, "benchmark.json")["growth"]
    ]  # fmt: skip
    return table(head, lines)


def _scaling(found: Row) -> str:
    counts = [row["processes"] for row in found["rows"]]
    lines = [
        [
            f"{row['processes']}" + (", again" if row["processes"] in counts[:index] else ""),
            f"{row['images_per_second']:.2f}", f"{row['gain']:.2f}",
            f"{100 * row['waiting_share']:.1f} %",
        ]
        for index, row in enumerate(found["rows"])
    ]  # fmt: skip
    return table(["GPUs", "images a second", "times the first", "waiting for images"], lines)


def _captioning(found: Row) -> str:
    rows: dict[tuple[str, int, bool], Row] = {}
    # of several runs the fastest: a machine's first compiles what later ones find
    for row in sorted(found["rows"], key=lambda row: row["images_per_second"]):
        if row["processes"] == 1:
            rows[row["method"], row["batch_size"], row["fast"]] = row
    lines = []
    order = [*LABELS]
    for method, size in sorted({row[:2] for row in rows}, key=lambda r: (order.index(r[0]), r[1])):
        plain, fast = rows[method, size, False], rows[method, size, True]
        cells = [LABELS[method], f"{size}"]
        for pace in ("images_per_second", "middle_images_per_second"):
            cells += [f"{plain[pace]:.2f}", f"{fast[pace]:.2f}", f"{fast[pace] / plain[pace]:.2f}"]
        lines.append(cells)
    head = ["", "batch", "`generate`: images a second", "fast path", "times"]
    return table([*head, "`generate`: median batch", "fast path", "times"], lines)
