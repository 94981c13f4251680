"""Times and memory of a model's shape on a GPU, from `benchmark.json` and `scaling.json`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ... import paths
from ...profiles import load_profile
from .cost import machine_name
from .format import DASH, dashed

__all__ = [
    "LABELS",
    "at_keep",
    "missing",
    "read",
    "resources",
    "rows",
    "scaling",
    "speedups",
    "swept",
    "times",
    "where",
]

#: methods of `lib.study.cost.benchmark` by their names in tables and legends
LABELS = {
    "unpruned": "Unpruned",
    "random": "RandomPrune",
    "tome": "ToMe",
    "fastv": "FastV (layer 2)",
    "entropy": "Entropy-Prune",
    "entropy-layer2": "Entropy-Prune at layer 2",
    "entropy-token": "Entropy-Prune, token level",
    "adaptive": "Entropy + coverage (ours)",
}
#: the parts of `benchmark.json`, and what measures each
PARTS = {
    "rows": "--batches 1,8,32 --compiled",
    "growth": "--methods '' --growth 144,576,1296,2304,4096 --batches 1 --compiled",
    "agreement": "--agreement",
    "leave_one_out": "--methods '' --leave-one-out",
}
#: shapes by the names of their models
SHAPES = {
    "llava-1.5-7b": "LLaVA-1.5-7B",
    "qwen2.5-vl-7b": "Qwen2.5-VL-7B",
    "qwen3-vl-8b": "Qwen3-VL-8B",
}
#: times of a row, in columns of these names; `static_` ones are of the fast path
TIMES = (
    "vision",
    "scorer",
    "prefill",
    "static_prefill",
    "decode",
    "static_decode",
    "end_to_end",
    "static_end_to_end",
)


# ---------------------------------------------------------------------------- the record


def read(profile: str) -> dict[str, Any]:
    """`benchmark.json` of a profile, empty if nothing was measured."""
    path = paths.measured(profile, "benchmark.json")
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def missing(record: Mapping[str, Any], profile: str) -> str:
    """The parts and methods that the record lacks, with the commands that measure them."""
    command = f"python -m lib benchmark --profile {profile}"
    with contextlib.suppress(ValueError):  # a folder of results need not be a profile's
        command += f" --model {record.get('model') or load_profile(profile).model}"
    lines = [
        f"{part}: not measured\n  {command} {options}"
        for part, options in PARTS.items()
        if not record.get(part)
    ]
    if measured := record.get("rows"):
        lines += [
            f"{label}: not measured\n  {command} {PARTS['rows']} --methods {name}"
            for name, label in LABELS.items()
            if name not in {row["method"] for row in measured}
        ]
    return "\n".join(lines) or f"every part was measured: {', '.join(PARTS)}"


def where(record: Mapping[str, Any]) -> str:
    """Model, device and precision of a record in words; empty for an empty record."""
    if not record:
        return ""
    model, machine = record["model"], machine_name(record["machine"])
    if model.startswith("shape:"):
        name = model.removeprefix("shape:")
        model = f"{SHAPES.get(name, name)}'s configuration with random weights"
    return f"{model}, {machine}, {record.get('dtype', 'float32')}"


# ---------------------------------------------------------------------------- as numbers


def rows(record: Mapping[str, Any], part: str = "rows") -> pd.DataFrame:
    """Measurements of a part (`rows` or `growth`) as numbers, one row each, methods in order.

    Times in ms: the columns `TIMES` with ` low` and ` high` quartiles; `decode` is per token, and
    it and `end_to_end` are missing where a single token was generated. `cache` and `peak` in GB
    of the batch; `analytic` (prefill, vision tower and scorer, operations) and `counted` (PyTorch's
    counter) in TFLOPs an image; `scorer share` of the time to the first token on the fast path in
    per cent. Empty, with these columns, if nothing was measured.
    """
    order = list(LABELS)
    found = sorted(
        record.get(part, ()),
        key=lambda r: (r["batch"], -r["keep"] if "keep" in r else 0, order.index(r["method"])),
    )
    columns = ["label", "batch", "keep", "kept", "tokens", "new tokens"]
    columns += [f"{name}{end}" for name in TIMES for end in ("", " low", " high")]
    columns += ["cache", "peak", "analytic", "counted", "scorer share"]
    return pd.DataFrame([_row(row) for row in found], columns=columns)


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    new = row.get("new_tokens", 2)
    cells = {
        "label": LABELS[row["method"]],
        "batch": row["batch"],
        "kept": row["kept"],
        "keep": row.get("keep", row["kept"]),
        "tokens": row.get("tokens"),
        "new tokens": new,
    }
    for name in TIMES:
        # a single token has no time per further token
        if row.get(name) and (new > 1 or not name.endswith(("decode", "end_to_end"))):
            for key, end in (("median", ""), ("low", " low"), ("high", " high")):
                cells[f"{name}{end}"] = 1e3 * row[name].get(key, row[name]["median"])
    for name, source in (("cache", "cache_bytes"), ("peak", "peak_bytes")):
        cells[name] = row[source] / 1e9 if row.get(source) else np.nan
    if flops := row.get("flops"):
        cells["analytic"] = (flops["exact"] + flops["vision"] + flops["scorer"]) / 1e12
    cells["counted"] = row.get("flops_counted", np.nan) / 1e12
    if "static_prefill" in cells:
        cells["scorer share"] = 100 * cells["scorer"] / cells["static_prefill"]
    return cells


def at_keep(frame: pd.DataFrame, keep: float) -> pd.DataFrame:
    """The rows at one keep rate, and the unpruned model's."""
    return frame[(frame["label"] == "Unpruned") | (frame["keep"] == keep)]


def swept(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the batch size with the most keep rates, for methods with several.

    The unpruned model is among them. Empty if no method was measured at several keep rates.
    """
    rates = frame.groupby(["batch", "label"])["keep"].nunique()
    if not (rates > 1).any():
        return frame.iloc[:0]
    batch = rates.groupby("batch").sum().idxmax()
    names = ["Unpruned", *rates[batch][rates[batch] > 1].index]
    return frame[(frame["batch"] == batch) & frame["label"].isin(names)]


def scaling(profile: str) -> pd.DataFrame:
    """Images a second by method, batch and processes (`lib.study.cost.scaling`), if measured."""
    path = paths.measured(profile, "scaling.json")
    if not path.is_file():
        return pd.DataFrame()
    found = json.loads(path.read_text(encoding="utf-8"))["rows"]
    frame = pd.DataFrame(
        {
            "method": [LABELS.get(row["method"], row["method"]) for row in found],
            "batch": [row["batch_size"] for row in found],
            "processes": [row["processes"] for row in found],
            "images/s": [row["images_per_second"] for row in found],
            "gain": [row["gain"] for row in found],
            "waiting for images (%)": [100 * row["waiting_share"] for row in found],
            "same captions": [
                DASH if row["same_records"] is None else row["same_records"] for row in found
            ],
        }
    )
    return frame.set_index(["method", "batch", "processes"]).round(2)


# ---------------------------------------------------------------------------- as tables


def times(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """A table a batch size: medians in ms by method, through `generate` and on the fast path.

    frame: of `at_keep`. Dashes where a path was not measured.
    """
    both = (("", "generate"), ("static_", "fast"))
    shown = {("vision", "tower"): ("vision", 1), ("scorer", ""): ("scorer", 2)}
    for title, name, digits in (
        ("first token", "prefill", 1),
        ("a further token", "decode", 2),
        ("end to end", "end_to_end", 0),
    ):
        shown |= {(title, path): (f"{prefix}{name}", digits) for prefix, path in both}
    return {
        f"Batch {batch}": pd.DataFrame(
            {title: dashed(part[name], digits) for title, (name, digits) in shown.items()}
        )
        for batch, part in frame.set_index("label").rename_axis(None).groupby("batch")
    }


def resources(frame: pd.DataFrame) -> pd.DataFrame:
    """Memory of a batch in GB, and TFLOPs of an image to the first token, by method.

    frame: of `at_keep`. Dashes where a batch size was not measured.
    """
    columns = {}
    by_batch = dict(list(frame.set_index("label").groupby("batch")))
    for title, name, digits in (("peak GB, batch", "peak", 1), ("cache GB, batch", "cache", 2)):
        for batch, part in by_batch.items():
            columns[(title, str(batch))] = dashed(part[name], digits)
    images = frame.drop_duplicates("label").set_index("label")  # the same at every batch size
    for name, title in (("analytic", "formula"), ("counted", "profiler")):
        columns[("TFLOPs an image", title)] = dashed(images[name], 2)
    return _in_order(pd.DataFrame(columns)).rename_axis(None).fillna(DASH)


def speedups(frame: pd.DataFrame) -> pd.DataFrame:
    """How many times faster than the unpruned model of the same batch, on the fast path.

    frame: of `at_keep`. Dashes where either was not measured.
    """
    parts = {"first token": "static_prefill", "end to end": "static_end_to_end"}
    columns = {}
    for title, name in parts.items():
        for batch, part in frame.groupby("batch"):
            values = part.set_index("label")[name]
            columns[(title, f"batch {batch}")] = values.get("Unpruned", np.nan) / values
    table = _in_order(pd.DataFrame(columns)).drop(index="Unpruned", errors="ignore")
    return table.rename_axis(None).apply(dashed, digits=2)


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """The methods in the order of `LABELS`."""
    return table.loc[[name for name in LABELS.values() if name in table.index]]
