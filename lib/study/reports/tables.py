"""Table 1 and the ablation tables, from what `lib.study.run` stored; as data frames, text and HTML.

The paper's numbers stand in a block of their own: another model, other images, another machine.
"""

from __future__ import annotations

import contextlib
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import paths
from .. import run as study
from ..records import write_atomically

__all__ = [
    "PAPER",
    "ablation",
    "cost",
    "credibility",
    "deviations",
    "differences",
    "paper",
    "quality",
    "ratios",
    "sweep",
    "write_table1",
]

DASH = "–"
QUALITY = ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "SPICE", study.OBJECT_F1)
FLOPS = ("FastV formula", "SparseVLM formula", "full count", "scorer", "profiler")
#: where the unpruned LLaVA-1.5-7B should land on COCO (README of pkunlp-icler/FastV)
PUBLISHED_CIDER = (108, 110)
#: Table 1 of the paper: LLaVA-1.5-7B, COCO, 50 % pruning, one RTX 3090
PAPER = pd.DataFrame(
    [
        ("LLaVA-1.5-7B", 37.52, 29.10, 57.80, 99.80, 22.50, 60.02, 4221),
        ("RandomPrune", 28.93, 24.31, 51.02, 93.41, 18.11, 44.15, 3418),
        ("ToMe", 36.12, 28.53, 56.91, 98.34, 21.79, 43.09, 3105),
        ("FastViT-Prune", 36.49, 28.62, 57.04, 100.94, 21.93, 41.52, 2815),
        ("Entropy-Prune", 36.84, 28.81, 57.33, 98.27, 22.14, 51.63, 3472),
    ],
    columns=["Method", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "SPICE", "FLOPs (G)",
             "Latency (ms)"],
).set_index("Method")  # fmt: skip


def interval(value: float | None, bounds: Sequence[float] | None, *, digits: int = 1) -> str:
    """A score in per cent with its interval.

    >>> interval(0.375, (0.36, 0.39)), interval(None, None)
    ('37.5 [36.0, 39.0]', '–')
    """
    if value is None:
        return DASH
    shown = f"{100 * value:.{digits}f}"
    if bounds is None:
        return shown
    return f"{shown} [{100 * bounds[0]:.{digits}f}, {100 * bounds[1]:.{digits}f}]"


def _rows(scores: Mapping[str, Any], *, extra: bool = True) -> dict[str, Mapping[str, Any]]:
    """The methods of Table 1 in the paper's order, then this study's variants."""
    found = scores["methods"]
    first = [s for name in study.TABLE_1 for s in found if _is(found[s], s, name)]
    return {s: found[s] for s in (*first, *(s for s in found if extra and s not in first))}


def _is(row: Mapping[str, Any], slug: str, name: str) -> bool:
    return row["method"] == name and slug.count("-") <= 1


def quality(profile: str, *, extra: bool = True) -> pd.DataFrame:
    """Kept share as measured and every metric with its 95 % interval, one row a method.

    `attrs["notes"]` says why columns show dashes.
    """
    scores = study.load_scores(profile)
    rows, notes = {}, {}
    for row in _rows(scores, extra=extra).values():
        cells = {"Kept (%)": f"{100 * row['kept']['mean']:.1f}"}
        for name in QUALITY:
            if name in row["values"]:
                cells[name] = interval(row["values"][name], row["intervals"].get(name))
        rows[row["label"]] = cells
        notes |= row["reasons"]
    frame = pd.DataFrame.from_dict(rows, orient="index").fillna(DASH)
    frame.index.name = "Method"
    frame.attrs["notes"] = {
        ", ".join(name for name, why in notes.items() if why == reason): reason
        for reason in dict.fromkeys(notes.values())
    }
    return frame


#: columns with the times of the fast path (`lib.decoding.StaticDecoder`), and what holds them in
#: a row of `efficiency.json`
FAST_FIRST, FAST_WHOLE = "fast path, first token (ms)", "fast path, end to end (ms)"
FAST = {FAST_FIRST: "static_prefill", FAST_WHOLE: "static_end_to_end"}


def cost(profile: str, *, batch: int = 1, extra: bool = True) -> pd.DataFrame:
    """FLOPs by every formula and measured times of a prompt, one row a method, at `keep`.

    GFLOPs of the prefill: the formulas of FastV and SparseVLM (multiply-adds), the full count
    (operations), PyTorch's counter (vision tower and prefill), and the scorer's own. Times in ms of
    a batch of `batch`; decoding per token. Those of the fast path, where measured, stand apart.
    """
    rows = {}
    for row in efficiency_rows(profile, batch=batch).values():
        if not row["table"] or not (extra or row["method"] in study.TABLE_1):
            continue
        flops, giga = row["flops"], 1e-9
        peak = row.get("peak_bytes")
        rows[row["label"]] = {
            "FastV formula": flops["fastv"] * giga,
            "SparseVLM formula": flops["sparsevlm"] * giga,
            "full count": flops["exact"] * giga,
            "scorer": flops["scorer"] * giga,
            "profiler": row["flops_counted"] * giga,
            "end to end (ms)": 1e3 * row["end_to_end"]["median"],
            "vision (ms)": 1e3 * row["vision"]["median"],
            "scorer (ms)": 1e3 * row["scorer"]["median"],
            "prefill (ms)": 1e3 * row["prefill"]["median"],
            "decode (ms/token)": 1e3 * row["decode"]["median"],
            **{
                name: 1e3 * row[key]["median"] if key in row else None for name, key in FAST.items()
            },
            "cache (MB)": row["cache_bytes"] / 1e6,
            "peak (MB)": None if peak is None else peak / 1e6,
        }
    frame = pd.DataFrame.from_dict(rows, orient="index").dropna(axis=1, how="all")
    frame.index.name = "Method"
    return frame


def _whole(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The time of a caption: at batch 1 on a GPU `generate` mostly waits for Python."""
    return row.get(FAST[FAST_WHOLE]) or row["end_to_end"]


def efficiency_rows(profile: str, *, batch: int = 1) -> dict[str, Mapping[str, Any]]:
    """`{slug: row}` of `efficiency.json` at one batch size."""
    rows = study.load_efficiency(profile)["rows"]
    return {row["slug"]: row for row in rows if row["batch"] == batch}


def credibility(profile: str) -> str:
    """Does the unpruned model score as published? One line, for LLaVA-1.5-7B on COCO's test split.

    Nothing is said of other models and data, for which no score was published, or of random
    weights.
    """
    settings = study.load_profile(profile)
    name = Path(settings.model).name.lower()
    on_coco = Path(settings.json_path or "dataset_coco.json").name == "dataset_coco.json"
    here = "/" in settings.model and name.startswith("llava-1.5-7b") and on_coco
    if not here or settings.random_weights or settings.split != "test":
        return "does not apply: a score to compare with exists for LLaVA-1.5-7B on COCO alone"
    value = study.load_scores(profile)["methods"]["unpruned"]["values"].get("CIDEr")
    if value is None:
        return "cannot be checked: CIDEr is not among the profile's metrics"
    low, high = PUBLISHED_CIDER
    score = round(100 * value, 1)
    nearest = min(max(score, low), high)
    verdict = "inside" if score == nearest else (
        f"off by {score - nearest:+.1f}: check prompt, precision, image processor, references"
    )  # fmt: skip
    return (
        f"unpruned CIDEr {score:.1f}; expected {low:g} to {high:g} (FastV's README: 108.7 on COCO "
        f"2014, 110.4 on 2017); the paper's own {PAPER['CIDEr'].iloc[0]:.1f}. Verdict: {verdict}"
    )


def paper() -> pd.DataFrame:
    """The paper's Table 1, as printed."""
    return PAPER.copy()


def ratios(profile: str) -> pd.DataFrame:
    """What is left of the unpruned model's scores and cost, ours and the paper's, in per cent.

    The latency is that of the fast path where it was measured.
    """
    scores = study.load_scores(profile)
    mine = _rows(scores, extra=False)
    base = mine["unpruned"]["values"]
    rows: dict[str, dict[str, float]] = {}
    with contextlib.suppress(FileNotFoundError):
        table = efficiency_rows(profile)
        whole = table["unpruned"]
    for (_, theirs), (slug, row) in zip(PAPER.iterrows(), mine.items()):
        cells: dict[str, float] = {}
        for name in ("BLEU-4", "CIDEr"):
            if row["values"].get(name) is not None:
                cells[f"{name}, ours"] = 100 * row["values"][name] / (base[name] or np.nan)
            cells[f"{name}, paper"] = 100 * theirs[name] / PAPER[name].iloc[0]
        with contextlib.suppress(NameError, KeyError):
            cost_of = {k: r["flops"]["exact"] + r["flops"]["vision"] + r["flops"]["scorer"]
                       for k, r in ((slug, table[slug]), ("unpruned", whole))}  # fmt: skip
            cells["FLOPs, ours"] = 100 * cost_of[slug] / cost_of["unpruned"]
            seconds = _whole(table[slug])["median"] / _whole(whole)["median"]
            cells["latency, ours"] = 100 * seconds
        cells["FLOPs, paper"] = 100 * theirs["FLOPs (G)"] / PAPER["FLOPs (G)"].iloc[0]
        cells["latency, paper"] = 100 * theirs["Latency (ms)"] / PAPER["Latency (ms)"].iloc[0]
        rows[row["label"]] = cells
    frame = pd.DataFrame.from_dict(rows, orient="index").round(1)
    frame.index.name = "Method"
    return frame[sorted(frame.columns, key=lambda c: (c.split(",")[0], "paper" in c))]


def differences(profile: str, *, metrics: Sequence[str] = ("BLEU-4", "CIDEr", "Object F1")):
    """Paired bootstrap differences in points: value, 95 % interval, and a star where p < 0.05.

    Empty where nothing was scored, as all that follows from scores.
    """
    scores = study.load_scores(profile)
    label = {slug: row["label"] for slug, row in scores["methods"].items()}
    rows = {}
    for pair in scores["differences"]:
        cells = {}
        for name in metrics:
            if name in pair["metrics"]:
                value, low, high, p = pair["metrics"][name]
                star = " *" if p < 0.05 else ""
                cells[name] = f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]{star}"
        rows[f"{label[pair['a']]} − {label[pair['b']]}"] = cells
    frame = pd.DataFrame.from_dict(rows, orient="index").fillna(DASH)
    frame.index.name = "Difference"
    return frame


def ablation(profile: str, group: str) -> pd.DataFrame:
    """One ablation: a row a setting, with kept share, scores and intervals.

    Raises `ValueError` for an unknown group.
    """
    found = study.load_scores(profile)["ablations"]
    rows = {}
    for row in found.values():
        if group in row["groups"]:
            cells = {"kept (%)": f"{100 * row['kept']['mean']:.1f}"}
            cells |= {n: interval(v, row["intervals"].get(n)) for n, v in row["values"].items()}
            rows[row["groups"][group]] = cells
    if not rows:
        groups = sorted({name for row in found.values() for name in row["groups"]})
        raise ValueError(f"no ablation {group!r}; there are {', '.join(groups)}")
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index.name = group
    return frame


def sweep(profile: str) -> pd.DataFrame:
    """The keep-rate sweep as numbers: one row a method and keep rate.

    Columns: label, keep, kept, each metric with `<metric> low` and `<metric> high`, `GFLOPs` (full
    count of vision tower, scorer and prefill) and `ms` (end to end, on the fast path where it was
    measured), missing where not measured.
    """
    scores = study.load_scores(profile)
    try:
        cost_of = efficiency_rows(profile)
    except FileNotFoundError:
        cost_of = {}
    rows = []
    for slug, row in scores["ablations"].items():
        if "sweep" not in row["groups"]:
            continue
        line = {"label": row["label"], "keep": float(row["groups"]["sweep"]),
                "kept": row["kept"]["mean"]}  # fmt: skip
        for name, value in row["values"].items():
            if value is None:
                continue
            low, high = row["intervals"].get(name) or (np.nan, np.nan)
            line |= {name: 100 * value, f"{name} low": 100 * low, f"{name} high": 100 * high}
        if slug in cost_of:
            flops = cost_of[slug]["flops"]
            line["GFLOPs"] = (flops["exact"] + flops["vision"] + flops["scorer"]) / 1e9
            time = _whole(cost_of[slug])
            line |= {"ms": 1e3 * time["median"], "ms low": 1e3 * time["low"],
                     "ms high": 1e3 * time["high"]}  # fmt: skip
        rows.append(line)
    return pd.DataFrame(rows)


def budgets(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A sweep as a table: methods by keep rate, one decimal, dashes where nothing was measured."""
    table = frame.pivot_table(index="label", columns="keep", values=metric, sort=False)
    table = table[sorted(table.columns)]
    shown = table.map(lambda value: DASH if np.isnan(value) else f"{value:.1f}")
    shown.columns = [f"{100 * keep:g} %" for keep in table.columns]
    return shown.rename_axis(None)


def measured(frame: pd.DataFrame, *names: str) -> str:
    """The first of these columns that a sweep has, so that cost can stand where no score does.

    >>> measured(pd.DataFrame({"ms": [1.0]}), "CIDEr", "ms")
    'ms'
    """
    return next(name for name in names if name in frame.columns)


def axes(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """What a sweep can be drawn against: the kept share, and FLOPs and time where measured."""
    known = [("kept", "kept share of visual tokens"), ("GFLOPs", "GFLOPs to the first token"),
             ("ms", "ms a caption")]  # fmt: skip
    return [(name, label) for name, label in known if name in frame.columns]


def losses(profile: str, *, metric: str = "CIDEr") -> pd.DataFrame:
    """Each method minus the unpruned model, in points: value, low, high."""
    scores = study.load_scores(profile)
    rows = {
        scores["methods"][pair["a"]]["label"]: pair["metrics"][metric][:3]
        for pair in scores["differences"]
        if pair["b"] == "unpruned"
    }
    return 100 * pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"])


def ablation_numbers(profile: str, *, metric: str = "CIDEr") -> dict[str, pd.DataFrame]:
    """{ablation: frame with value, low, high}: each setting minus Entropy-Prune's default, paired.

    In points of the metric; the sweep is left out, and so is what was not scored.
    """
    headings = {"place": "where it prunes"}
    found = study.load_scores(profile)["ablations"].values()
    groups: dict[str, dict[str, list[float]]] = {}
    for row in found:
        for group, setting in row["groups"].items():
            if group != "sweep" and row["versus"]:
                rows = groups.setdefault(headings.get(group, group), {})
                rows[setting] = row["versus"][metric][:3]
    columns = ["value", "low", "high"]
    return {
        name: 100 * pd.DataFrame.from_dict(rows, orient="index", columns=columns)
        for name, rows in groups.items()
    }


def flops_ratios(profile: str) -> pd.DataFrame:
    """Share of the unpruned model's FLOPs that each formula leaves, in per cent.

    `with vision and scorer` is the full count of everything up to the first token.
    """
    rows = {}
    table = efficiency_rows(profile)
    whole = table["unpruned"]["flops"]
    for row in table.values():
        if row["table"]:
            flops = row["flops"]
            cells = {f"{k} formula": flops[k] / whole[k] for k in ("fastv", "sparsevlm", "exact")}
            total, all_of = (f["exact"] + f["vision"] + f["scorer"] for f in (flops, whole))
            cells["with vision and scorer"] = total / all_of
            cells["profiler"] = row["flops_counted"] / table["unpruned"]["flops_counted"]
            rows[row["label"]] = cells
    frame = (100 * pd.DataFrame.from_dict(rows, orient="index")).round(1)
    frame.index.name = "Method"
    return frame.rename(columns={"exact formula": "full count", "fastv formula": "FastV formula",
                                 "sparsevlm formula": "SparseVLM formula"})  # fmt: skip


def machine_name(machine: Mapping[str, Any]) -> str:
    """The device of a measurement in words."""
    threads = machine.get("threads")
    if not threads:
        return f"one {machine['device']}"
    return f"a CPU, {threads} thread{'s' if threads > 1 else ''}"


# ---------------------------------------------------------------------------- the large model

#: methods of `lib.study.cost.benchmark` by their names in tables and legends
BENCHMARKED = {
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
BENCHMARK_PARTS = {
    "rows": "--batches 1 8 32 --compiled",
    "growth": "--methods --growth 144 576 1296 2304 --batches 1 8",
    "agreement": "--agreement",
    "leave_one_out": "--methods --leave-one-out",
}
#: shapes by the names of their models
SHAPES = {"llava-1.5-7b": "LLaVA-1.5-7B"}
#: times of a row, in columns of these names; `static_` ones are of the fast path
TIMES = ("vision", "scorer", "prefill", "static_prefill", "decode", "static_decode",
         "end_to_end", "static_end_to_end")  # fmt: skip


def benchmark_record(profile: str) -> dict[str, Any]:
    """`benchmark.json` of a profile (see `lib.study.cost.benchmark`), empty if nothing was
    measured."""
    path = paths.results_dir(profile) / "benchmark.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def benchmark_missing(record: Mapping[str, Any], profile: str) -> str:
    """The parts and methods that the record lacks, with the commands that measure them."""
    command = f"python -m lib.study.cost.benchmark --profile {profile}"
    with contextlib.suppress(ValueError):  # a folder of results need not be a profile's
        command += f" --model {record.get('model') or study.load_profile(profile).model}"
    lines = [
        f"{part}: not measured\n  {command} {options}"
        for part, options in BENCHMARK_PARTS.items()
        if not record.get(part)
    ]
    if rows := record.get("rows"):
        lines += [
            f"{label}: not measured\n  {command} {BENCHMARK_PARTS['rows']} --methods {name}"
            for name, label in BENCHMARKED.items()
            if name not in {row["method"] for row in rows}
        ]
    return "\n".join(lines) or f"every part was measured: {', '.join(BENCHMARK_PARTS)}"


def scaling(profile: str) -> pd.DataFrame:
    """Images a second by batch size and processes (see `lib.study.cost.scaling`), empty if not
    measured."""
    path = paths.results_dir(profile) / "scaling.json"
    if not path.is_file():
        return pd.DataFrame()
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    frame = pd.DataFrame(
        {
            "batch": [row["batch_size"] for row in rows],
            "processes": [row["processes"] for row in rows],
            "images/s": [row["images_per_second"] for row in rows],
            "gain": [row["gain"] for row in rows],
            "waiting for images (%)": [100 * row["waiting_share"] for row in rows],
            "same captions": [row["same_records"] for row in rows],
        }
    )
    return frame.set_index(["batch", "processes"]).round(2)


def benchmark_where(record: Mapping[str, Any]) -> str:
    """Model, device and precision of a record in words."""
    model, machine = record["model"], machine_name(record["machine"])
    if model.startswith("shape:"):
        name = model.removeprefix("shape:")
        model = f"{SHAPES.get(name, name)}'s configuration with random weights"
    return f"{model}, {machine}, {record.get('dtype', 'float32')}"


def benchmark(record: Mapping[str, Any], part: str = "rows") -> pd.DataFrame:
    """Measurements of a part (`rows` or `growth`) as numbers, one row each, methods in order.

    Times in ms: the columns `TIMES` with ` low` and ` high` quartiles; `decode` is per token, and
    it and `end_to_end` are missing where a single token was generated. `cache` and `peak` in GB
    of the batch; `analytic` (prefill, vision tower and scorer, operations) and `counted` (PyTorch's
    counter) in TFLOPs an image; `scorer share` of the time to the first token on the fast path in
    per cent. Empty, with these columns, if nothing was measured.
    """
    order = list(BENCHMARKED)
    found = sorted(
        record.get(part, ()),
        key=lambda r: (r["batch"], -r["keep"] if "keep" in r else 0, order.index(r["method"])),
    )
    columns = ["label", "batch", "keep", "kept", "tokens", "new tokens"]
    columns += [f"{name}{end}" for name in TIMES for end in ("", " low", " high")]
    columns += ["cache", "peak", "analytic", "counted", "scorer share"]
    return pd.DataFrame([_benchmark_row(row) for row in found], columns=columns)


def _benchmark_row(row: Mapping[str, Any]) -> dict[str, Any]:
    new = row.get("new_tokens", 2)
    cells = {"label": BENCHMARKED[row["method"]], "batch": row["batch"], "kept": row["kept"],
             "keep": row.get("keep", row["kept"]), "tokens": row.get("tokens"),
             "new tokens": new}  # fmt: skip
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
    """The rows of `benchmark` at one keep rate, and the unpruned model's."""
    return frame[(frame["label"] == "Unpruned") | (frame["keep"] == keep)]


def swept(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of `benchmark` of the batch size with the most keep rates, for methods with several.

    The unpruned model is among them. Empty if no method was measured at several keep rates.
    """
    rates = frame.groupby(["batch", "label"])["keep"].nunique()
    if not (rates > 1).any():
        return frame.iloc[:0]
    batch = rates.groupby("batch").sum().idxmax()
    names = ["Unpruned", *rates[batch][rates[batch] > 1].index]
    return frame[(frame["batch"] == batch) & frame["label"].isin(names)]


def benchmark_times(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """A table a batch size: medians in ms by method, through `generate` and on the fast path.

    frame: of `at_keep`. Dashes where a path was not measured.
    """
    both = (("", "generate"), ("static_", "fast"))
    shown = {("vision", "tower"): ("vision", 1), ("scorer", ""): ("scorer", 2)}
    for title, name, digits in (("first token", "prefill", 1), ("a further token", "decode", 2),
                                ("end to end", "end_to_end", 0)):  # fmt: skip
        shown |= {(title, path): (f"{prefix}{name}", digits) for prefix, path in both}
    return {
        f"Batch {batch}": pd.DataFrame(
            {title: _dashed(rows[name], digits) for title, (name, digits) in shown.items()}
        )
        for batch, rows in frame.set_index("label").rename_axis(None).groupby("batch")
    }


def benchmark_resources(frame: pd.DataFrame) -> pd.DataFrame:
    """Memory of a batch in GB, and TFLOPs of an image to the first token, by method.

    frame: of `at_keep`. Dashes where a batch size was not measured.
    """
    columns = {}
    by_batch = dict(list(frame.set_index("label").groupby("batch")))
    for title, name, digits in (("peak GB, batch", "peak", 1), ("cache GB, batch", "cache", 2)):
        for batch, rows in by_batch.items():
            columns[(title, str(batch))] = _dashed(rows[name], digits)
    images = frame.drop_duplicates("label").set_index("label")  # the same at every batch size
    for name, title in (("analytic", "formula"), ("counted", "profiler")):
        columns[("TFLOPs an image", title)] = _dashed(images[name], 2)
    return _in_order(pd.DataFrame(columns)).rename_axis(None).fillna(DASH)


def _dashed(values: pd.Series, digits: int) -> pd.Series:
    return values.map(lambda value: DASH if pd.isna(value) else f"{value:,.{digits}f}")


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """The methods in the order of `BENCHMARKED`."""
    return table.loc[[name for name in BENCHMARKED.values() if name in table.index]]


def speedups(frame: pd.DataFrame) -> pd.DataFrame:
    """How many times faster than the unpruned model of the same batch, on the fast path.

    frame: of `at_keep`. Dashes where either was not measured.
    """
    parts = {"first token": "static_prefill", "end to end": "static_end_to_end"}
    columns = {}
    for title, name in parts.items():
        for batch, rows in frame.groupby("batch"):
            values = rows.set_index("label")[name]
            columns[(title, f"batch {batch}")] = values.get("Unpruned", np.nan) / values
    table = _in_order(pd.DataFrame(columns)).drop(index="Unpruned", errors="ignore")
    return table.rename_axis(None).apply(_dashed, digits=2)


def benchmark_findings(record: Mapping[str, Any], *, keep: float) -> list[str]:
    """What the record says in sentences; what was not measured is left out."""
    frame = at_keep(benchmark(record), keep)
    return [
        *_spread(frame),
        *_fast_path(frame),
        *_language_model(frame),
        *_scorer(frame, benchmark(record, "growth")),
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
    if rows:
        each = rows[0]["batch"] * rows[0]["tokens"]
        apart = [
            f"{BENCHMARKED[r['method']]} {100 * r['same']:.1f} %" for r in rows if r["same"] < 1
        ]
        result = f"the same but for {', '.join(apart)}" if apart else "every one the same"
        yield (
            f"Tokens of the fast path against those of generate, {rows[0]['dtype']}, "
            f"{len(rows)} method{'s' if len(rows) > 1 else ''}, {each} tokens each: {result}."
        )
    shares = [r["static_agreement"] for r in record.get("rows", ()) if r.get("static_agreement")]
    if shares:
        low, high = (round(100 * f(shares)) for f in (min, max))
        yield (
            f"The same in {record.get('dtype', 'float32')}, as timed: {low} to {high} %; where two "
            f"logits nearly tie, rounding decides, and later tokens follow from it."
        )


# ---------------------------------------------------------------------------- in words


def describe(frame: pd.DataFrame, what: str) -> str:
    """A point figure as a sentence, for those who do not see it."""
    parts = [
        f"{n} {r['value']:.1f} ({r['low']:.1f} to {r['high']:.1f})" for n, r in frame.iterrows()
    ]
    return f"{what}: {'; '.join(parts)}."


def describe_sweep(frame: pd.DataFrame, metric: str) -> str:
    """The keep-rate curves as text."""
    parts = []
    for name, rows in frame.groupby("label", sort=False):
        points = ", ".join(
            f"{value:.1f} at {100 * kept:.0f} %" for kept, value in zip(rows["kept"], rows[metric])
        )
        parts.append(f"{name}: {points}")
    return f"{metric} by kept share of the visual tokens. {'; '.join(parts)}."


def describe_split(frame: pd.DataFrame) -> str:
    """The stacked bars as text."""
    parts = [
        f"{name} {row[FAST_WHOLE]:.0f} ms, to the first token {row[FAST_FIRST]:.1f}"
        if FAST_WHOLE in row
        else f"{name} {row['end to end (ms)']:.0f} ms, of which the scorer {row['scorer (ms)']:.1f}"
        for name, row in frame.iterrows()
    ]
    return f"Stacked bars of the time of one caption: {'; '.join(parts)}."


def describe_benchmark(frame: pd.DataFrame, name: str, what: str, *, by: str = "batch") -> str:
    """A column of `benchmark` as text, the values of `by` in order for each method."""
    parts = []
    for label, rows in frame.dropna(subset=[name]).groupby("label", sort=False):
        values = ", ".join(
            f"{y:.3g} at {x:g}" for x, y in rows.sort_values(by)[[by, name]].itertuples(index=False)
        )
        parts.append(f"{label} {values}")
    return f"{what}: {'; '.join(parts)}." if parts else f"{what}: not measured."


# ---------------------------------------------------------------------------- files


def write_table1(profile: str) -> dict[str, Path]:
    """Write Table 1 to `figures/<profile>/table1.{csv,md,tex}`; returns the paths.

    The CSV holds plain numbers with the bounds of their intervals; `table1_paper.csv` the paper's.
    """
    folder = paths.figures_dir(profile)
    blocks = _blocks(profile)
    notes = quality(profile).attrs["notes"]
    about = _about(profile)
    md = [f"{title}\n\n{_markdown(frame)}" for title, frame in blocks]
    md += [f"{DASH} {name}: {text}" for name, text in notes.items()]
    tex = [f"% {title}\n{_latex(frame)}" for title, frame in blocks]
    texts = {
        "table1.csv": numbers(profile).to_csv(lineterminator="\n"),
        "table1_paper.csv": PAPER.to_csv(lineterminator="\n"),
        "table1.md": f"{about}\n\n" + "\n\n".join(md) + "\n",
        "table1.tex": f"% {about}\n" + "\n\n".join(tex) + "\n",
    }
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return {name: folder / name for name in texts}


def numbers(profile: str) -> pd.DataFrame:
    """Table 1 as plain numbers, intervals in columns of their own."""
    scores = study.load_scores(profile)
    try:
        cost_of = efficiency_rows(profile)
    except FileNotFoundError:
        cost_of = {}
    rows = {}
    for slug, row in _rows(scores).items():
        cells: dict[str, Any] = {"method": row["label"], "kept": round(row["kept"]["mean"], 4)}
        for name, value in row["values"].items():
            low, high = row["intervals"].get(name) or (None, None)
            for key, number in ((name, value), (f"{name} low", low), (f"{name} high", high)):
                cells[key] = None if number is None else round(100 * number, 2)
        if slug in cost_of:
            made = cost_of[slug]
            cells |= {f"FLOPs {k}": v for k, v in made["flops"].items()}
            cells["FLOPs profiler"] = made["flops_counted"]
            for key in ("end_to_end", "vision", "scorer", "prefill", "decode", *FAST.values()):
                if key in made:
                    cells[f"{key} ms"] = round(1e3 * made[key]["median"], 2)
            cells["cache bytes"], cells["peak bytes"] = made["cache_bytes"], made["peak_bytes"]
        rows[slug] = cells
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index.name = "slug"
    return frame


def _about(profile: str) -> str:
    scores, settings = study.load_scores(profile), study.load_profile(profile)
    said = (
        f"Table 1 at {100 * settings.keep:g} % of the visual tokens: {settings.description}; "
        f"{scores['images']} images"
    )
    if settings.random_weights:
        mark = study.mark(profile)
        return f"{said}. {mark[0].upper()}{mark[1:]}: {study.UNSCORED}; the cost is measured."
    return f"{said}, 95 % bootstrap intervals in brackets."


def _blocks(profile: str) -> list[tuple[str, pd.DataFrame]]:
    blocks = [(f"Ours: quality{_marked(profile)}", quality(profile))]
    with contextlib.suppress(FileNotFoundError):
        machine = study.load_efficiency(profile)["machine"]
        bill = cost(profile)
        where = f"batch 1, {machine_name(machine)}"
        blocks.append(("Ours: GFLOPs of one image", bill[list(FLOPS)].round(2)))
        blocks.append((f"Ours: time and memory, {where}", bill.drop(columns=list(FLOPS)).round(1)))
        blocks = [*blocks[:1], *((title + _marked(profile), frame) for title, frame in blocks[1:])]
    title = "The paper: LLaVA-1.5-7B, COCO Karpathy test, RTX 3090 (as printed; not comparable)"
    return [*blocks, (title, PAPER)]


def _marked(profile: str) -> str:
    return f" ({study.RANDOM})" if study.mark(profile) else ""


def _markdown(frame: pd.DataFrame) -> str:
    head = [frame.index.name or "", *map(str, frame.columns)]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * len(frame.columns) + "|"]
    for name, row in frame.iterrows():
        lines.append("| " + " | ".join([str(name), *map(_cell, row)]) + " |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return DASH
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _latex(frame: pd.DataFrame) -> str:
    def safe(text: str) -> str:
        for a, b in (("%", r"\%"), ("_", r"\_"), ("&", r"\&"), (DASH, "--"), ("−", "--")):
            text = text.replace(a, b)
        return text

    lines = [rf"\begin{{tabular}}{{l{'r' * len(frame.columns)}}}", r"\toprule"]
    lines.append(" & ".join(map(safe, ["Method", *map(str, frame.columns)])) + r" \\")
    lines.append(r"\midrule")
    for name, row in frame.iterrows():
        lines.append(" & ".join(safe(c) for c in [str(name), *map(_cell, row)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def html_blocks(profile: str) -> str:
    """The blocks of Table 1 as HTML, each scrolling by itself."""
    parts = [f'<p class="note">{html.escape(_about(profile))}</p>']
    for title, frame in _blocks(profile):
        shown = frame.map(_cell).rename_axis(None)
        table = shown.to_html(border=0, escape=True)
        parts.append(f'<h3>{html.escape(title)}</h3><div class="scroll">{table}</div>')
    for name, text in quality(profile).attrs["notes"].items():
        parts.append(f'<p class="note">{DASH} {html.escape(name)}: {html.escape(text)}</p>')
    return "\n".join(parts)


DEVIATIONS = {
    "Entropy of a subset": "The Gram matrix without a token is normalised to trace one again; "
    "about half of all scores are then negative, and they are kept as they are.",
    "ε": "0 · log 0 = 0 after clamping rounding errors; the paper’s ε is an option, off by "
    "default.",
    "Rollout": "The literal product of eq. 6 turns to rank one and inverts the ranking after about "
    "ten layers. The default divides each operator by the number of layers; the literal form and "
    "the reading with score vectors are options, compared in the ablations.",
    "50 %": "Algorithm 1 keeps a number that depends on the image. Table 1 fills up from the core "
    "clusters to exactly 50 %, so that all methods have one budget; the adaptive count has a row "
    "of its own, and the kept share is always the measured one.",
    "FLOPs": "60.02 GFLOPs do not follow from any usual formula for LLaVA-1.5-7B. Three formulas "
    "and PyTorch’s counter are given, the scorer’s work included; only ratios are compared.",
    "FastV": "The paper’s “FastViT-Prune” is attention pruning by FastV’s rule: average over "
    "heads, last query, layer before the cut, original positions.",
    "Prompt, decoding, hardware": "The paper gives neither prompt nor decoding; here both are in "
    "the manifest of every record. Decoding is greedy.",
}


def deviations(profile: str) -> str:
    """What differs from the paper, as an HTML list."""
    settings = study.load_profile(profile)
    items = [
        f"<li><b>Model and data.</b> The paper: LLaVA-1.5-7B on COCO, RTX 3090. Here: "
        f"{html.escape(settings.description)}. The profile <code>paper</code> runs the paper’s "
        "model and data.</li>"
    ]
    items += [f"<li><b>{html.escape(a)}.</b> {html.escape(b)}</li>" for a, b in DEVIATIONS.items()]
    return "<ul>" + "\n".join(items) + "</ul>"
