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
    "RATIO",
    "flops_ratios",
    "machine_name",
    "ratios",
    "rounds",
    "rows",
    "table",
]

#: columns of the FLOPs, by who counts
FLOPS = ("encoder", "FastV formula", "SparseVLM formula", "full count", "scorer", "profiler")
#: share of the unpruned model's time for a whole caption, with its 95 % interval
RATIO = "of unpruned, end to end"
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

    GFLOPs of the visual encoder's linear layers and attention (multiply-adds), as the paper means
    them, and of the prefill: the formulas of FastV and SparseVLM (multiply-adds), the full count
    (operations), PyTorch's counter (vision tower and prefill), and the scorer's own. Times in ms of
    a batch of `batch`; decoding per token. Those of the fast path, where measured, stand apart.
    """
    found = {}
    for row in rows(profile, batch=batch).values():
        if not row["table"] or not (extra or row["method"] in TABLE_1):
            continue
        keys = ("encoder", "fastv", "sparsevlm", "exact", "scorer")
        counts = [row["flops"].get(key, float("nan")) for key in keys]
        cells = {name: n / 1e9 for name, n in zip(FLOPS, [*counts, row["flops_counted"]])}
        cells |= {n: 1e3 * row[k]["median"] if k in row else None for n, k in _TIMES.items()}
        cells[RATIO] = _ratio(row)
        for name in ("cache", "peak"):
            size = row.get(f"{name}_bytes")
            cells[f"{name} (MB)"] = None if size is None else size / 1e6
        found[row["label"]] = cells
    frame = pd.DataFrame.from_dict(found, orient="index")
    there = [name for name in frame if name in FLOPS or frame[name].notna().any()]
    return frame[there].rename_axis("Method")


def _ratio(row: Mapping[str, Any], what: str = "end_to_end") -> str | None:
    """The ratio of a time, in per cent; None where it was not measured in rounds."""
    found = row.get("ratio", {}).get(what)
    if found is None:
        return None
    shown = f"{100 * found['median']:.1f} %"
    if found["low"] is None:
        return shown
    return f"{shown} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def ratios(profile: str, *, batch: int = 1) -> pd.DataFrame:
    """Whole captions, and the time to the first token, over the unpruned model's: 95 % intervals.

    Empty where they were not measured in rounds.
    """
    found = {}
    for row in rows(profile, batch=batch).values():
        if row["table"] and "ratio" in row:
            found[row["label"]] = {
                "layer": row.get("layer"),
                "whole caption": _ratio(row),
                "first token": _ratio(row, "prefill"),
                "rounds": row["ratio"]["end_to_end"]["rounds"],
            }
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("Method")


def rounds(profile: str) -> str:
    """In how many rounds Table 1's methods were timed."""
    counts = {row["end_to_end"]["repeats"] for row in rows(profile).values() if row["table"]}
    return " to ".join(str(count) for count in sorted({min(counts), max(counts)}))


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
            if "encoder" in flops:
                cells["encoder, as the paper"] = flops["encoder"] / whole["encoder"]
            cells["profiler"] = row["flops_counted"] / table["unpruned"]["flops_counted"]
            found[row["label"]] = cells
    return (100 * pd.DataFrame.from_dict(found, orient="index")).round(1).rename_axis("Method")


def machine_name(machine: Mapping[str, Any]) -> str:
    """The device of a measurement in words."""
    threads = machine.get("threads")
    if not threads:
        return f"one {machine['device']}"
    return f"a CPU, {threads} thread{'s' if threads > 1 else ''}"
