"""FLOPs, time and memory of one profile, from `efficiency.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ...labels import TABLE_1
from ...stored import load_efficiency

__all__ = [
    "FAST",
    "FAST_FIRST",
    "FAST_WHOLE",
    "FLOPS",
    "flops_ratios",
    "machine_name",
    "rows",
    "table",
]

#: columns of the FLOPs, by who counts
FLOPS = ("FastV formula", "SparseVLM formula", "full count", "scorer", "profiler")
#: columns with the times of the fast path (`lib.decoding.StaticDecoder`), and what holds them in a
#: row of `efficiency.json`
FAST_FIRST, FAST_WHOLE = "fast path, first token (ms)", "fast path, end to end (ms)"
FAST = {FAST_FIRST: "static_prefill", FAST_WHOLE: "static_end_to_end"}
_TIMES = {
    "end to end (ms)": "end_to_end",
    "vision (ms)": "vision",
    "scorer (ms)": "scorer",
    "prefill (ms)": "prefill",
    "decode (ms/token)": "decode",
    **FAST,
}


def rows(profile: str, *, batch: int = 1) -> dict[str, Mapping[str, Any]]:
    """`{slug: row}` of `efficiency.json` at one batch size."""
    found = load_efficiency(profile)["rows"]
    return {row["slug"]: row for row in found if row["batch"] == batch}


def table(profile: str, *, batch: int = 1, extra: bool = True) -> pd.DataFrame:
    """FLOPs by every formula and measured times of a prompt, one row a method, at `keep`.

    GFLOPs of the prefill: the formulas of FastV and SparseVLM (multiply-adds), the full count
    (operations), PyTorch's counter (vision tower and prefill), and the scorer's own. Times in ms of
    a batch of `batch`; decoding per token. Those of the fast path, where measured, stand apart.
    """
    found = {}
    for row in rows(profile, batch=batch).values():
        if not row["table"] or not (extra or row["method"] in TABLE_1):
            continue
        counts = [row["flops"][key] for key in ("fastv", "sparsevlm", "exact", "scorer")]
        cells = {name: n / 1e9 for name, n in zip(FLOPS, [*counts, row["flops_counted"]])}
        cells |= {n: 1e3 * row[k]["median"] if k in row else None for n, k in _TIMES.items()}
        for name in ("cache", "peak"):
            size = row.get(f"{name}_bytes")
            cells[f"{name} (MB)"] = None if size is None else size / 1e6
        found[row["label"]] = cells
    frame = pd.DataFrame.from_dict(found, orient="index").dropna(axis=1, how="all")
    return frame.rename_axis("Method")


def flops_ratios(profile: str) -> pd.DataFrame:
    """Share of the unpruned model's FLOPs that each formula leaves, in per cent.

    `with vision and scorer` is the full count of everything up to the first token.
    """
    found = {}
    table = rows(profile)
    whole = table["unpruned"]["flops"]
    named = {"FastV formula": "fastv", "SparseVLM formula": "sparsevlm", "full count": "exact"}
    for row in table.values():
        if row["table"]:
            flops = row["flops"]
            cells = {name: flops[key] / whole[key] for name, key in named.items()}
            total, all_of = (f["exact"] + f["vision"] + f["scorer"] for f in (flops, whole))
            cells["with vision and scorer"] = total / all_of
            cells["profiler"] = row["flops_counted"] / table["unpruned"]["flops_counted"]
            found[row["label"]] = cells
    return (100 * pd.DataFrame.from_dict(found, orient="index")).round(1).rename_axis("Method")


def machine_name(machine: Mapping[str, Any]) -> str:
    """The device of a measurement in words."""
    threads = machine.get("threads")
    if not threads:
        return f"one {machine['device']}"
    return f"a CPU, {threads} thread{'s' if threads > 1 else ''}"
