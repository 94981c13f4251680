"""What the record of the large model says, in sentences computed from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from . import benchmark
from .benchmark import LABELS

__all__ = ["findings"]


def findings(record: Mapping[str, Any], *, keep: float) -> list[str]:
    """Spread, paths, language model, scorer, its definition, agreement; only what was measured."""
    frame = benchmark.at_keep(benchmark.rows(record), keep)
    return [
        *_spread(frame),
        *_fast_path(frame),
        *_language_model(frame),
        *_scorer(frame, benchmark.rows(record, "growth")),
        *_definition(record),
        *_agreement(record),
    ]


def _median(frame: pd.DataFrame, label: str, batch: int, column: str) -> float:
    """One number of the benchmark, nan if it was not measured."""
    found = frame[(frame["label"] == label) & (frame["batch"] == batch)][column]
    return float(found.iloc[0]) if len(found) else np.nan


def _spread(frame: pd.DataFrame) -> Iterator[str]:
    first = frame["static_prefill"]
    off = 100 * np.maximum(
        frame["static_prefill high"] - first, first - frame["static_prefill low"]
    )
    if len(off := (off / first).dropna()):
        yield (
            f"Spread: the quartiles of the time to the first token on the fast path lie within "
            f"{off.max():.1f} % of the median, for half of the rows within {off.median():.1f} %."
        )


def _fast_path(frame: pd.DataFrame) -> Iterator[str]:
    for batch in frame["batch"].unique():
        plain, fast, step, fast_step = (
            _median(frame, "Unpruned", batch, name)
            for name in ("end_to_end", "static_end_to_end", "decode", "static_decode")
        )
        if not np.isnan(plain / fast):
            new = frame.loc[frame["label"] == "Unpruned", "new tokens"].max()
            yield (
                f"Fast path at batch {batch}, unpruned: {new} tokens in {fast:,.0f} ms against "
                f"{plain:,.0f} ms through generate, {plain / fast:.1f} times faster; a further "
                f"token in {fast_step:.1f} ms against {step:.1f} ms."
            )


def _language_model(frame: pd.DataFrame) -> Iterator[str]:
    for batch in frame["batch"].unique()[-1:]:
        before, after = (
            _median(frame, label, batch, "static_prefill") - _median(frame, label, batch, "vision")
            for label in ("Unpruned", "Entropy-Prune")
        )
        if not np.isnan(before / after):
            yield (
                f"Prefill of the language model at batch {batch}, Entropy-Prune, the scorer "
                f"included: {before:.0f} ms to {after:.0f} ms, {before / after:.2f} times faster "
                f"(time to the first token on the fast path less the vision tower)."
            )


def _scorer(frame: pd.DataFrame, growth: pd.DataFrame) -> Iterator[str]:
    """The cost of each entropy scorer an image, and its largest share anywhere."""
    for label, rows in frame.groupby("label", sort=False):
        if not label.startswith("Entropy"):
            continue
        costs = ", ".join(
            f"{cost / batch:.2f} at batch {batch}"
            for cost, batch in zip(rows["scorer"], rows["batch"])
        )
        said = f"Scorer of {label}: {costs} (ms an image)"
        shares = {f"batch {b}": s for b, s in zip(rows["batch"], rows["scorer share"])}
        grown = growth[growth["label"] == label]
        shares |= {
            f"{n} visual tokens, batch {b}": s
            for n, b, s in zip(grown["tokens"], grown["batch"], grown["scorer share"])
        }
        shares = {where: share for where, share in shares.items() if not np.isnan(share)}
        if shares:
            most = max(shares, key=shares.__getitem__)
            said += f"; at most {shares[most]:.1f} % of the time to the first token ({most})"
        yield f"{said}."


def _definition(record: Mapping[str, Any]) -> Iterator[str]:
    for row in record.get("leave_one_out", ()):
        yield (
            f"Exact leave-one-out entropy of {row['tokens']} tokens: "
            f"{1e3 * row['exact']['median']:.2f} ms, by its definition "
            f"{1e3 * row['naive']['median']:,.0f} ms: {row['ratio']:,.0f} times faster, the "
            f"largest error {row['largest_error_over_spread']:.0e} of their spread."
        )


def _agreement(record: Mapping[str, Any]) -> Iterator[str]:
    rows = record.get("agreement", ())
    fused = [bool(row.get("compiled")) for row in rows]
    rows = [row for row, own in zip(rows, fused) if own == fused[-1]]
    if rows:
        each = rows[0]["batch"] * rows[0]["tokens"]
        apart = [f"{LABELS[r['method']]} {100 * r['same']:.1f} %" for r in rows if r["same"] < 1]
        result = f"the same but for {', '.join(apart)}" if apart else "every one the same"
        way = "" if fused[-1] else ", not fused,"
        yield (
            f"Tokens of the fast path{way} against those of generate, {rows[0]['dtype']}, "
            f"{len(rows)} method{'s' if len(rows) > 1 else ''}, {each} tokens each: {result}."
        )
    shares = [r["static_agreement"] for r in record.get("rows", ()) if r.get("static_agreement")]
    if shares:
        low, high = (round(100 * f(shares)) for f in (min, max))
        yield (
            f"The same in {record.get('dtype', 'float32')}, as timed: {low} to {high} %; where two "
            f"logits nearly tie, rounding decides, and later tokens follow from it."
        )
