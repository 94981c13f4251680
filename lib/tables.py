"""Table 1 and the ablation tables, from what `lib.study` stored; as data frames, text and HTML.

The paper's numbers stand in a block of their own: another model, other images, another machine.
"""

from __future__ import annotations

import contextlib
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import paths, study
from .results import write_atomically

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


def cost(profile: str, *, batch: int = 1, extra: bool = True) -> pd.DataFrame:
    """FLOPs by every formula and measured times of a prompt, one row a method, at `keep`.

    GFLOPs of the prefill: the formulas of FastV and SparseVLM (multiply-adds), the full count
    (operations), PyTorch's counter (vision tower and prefill), and the scorer's own. Times in ms of
    a batch of `batch`; decoding per token.
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
            "cache (MB)": row["cache_bytes"] / 1e6,
            "peak (MB)": None if peak is None else peak / 1e6,
        }
    frame = pd.DataFrame.from_dict(rows, orient="index").dropna(axis=1, how="all")
    frame.index.name = "Method"
    return frame


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
    """What is left of the unpruned model's scores and cost, ours and the paper's, in per cent."""
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
            seconds = table[slug]["end_to_end"]["median"] / whole["end_to_end"]["median"]
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
    count of vision tower, scorer and prefill) and `ms` (end to end), missing where not measured.
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
            time = cost_of[slug]["end_to_end"]
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


def benchmark_rows(profile: str) -> list[dict[str, Any]]:
    """Rows of `benchmark.json` (see `lib.benchmark`), none if it was not measured."""
    path = paths.results_dir(profile) / "benchmark.json"
    if not path.is_file():
        return []
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def benchmark_where(profile: str) -> str:
    """Device and precision of `benchmark.json`."""
    document = json.loads((paths.results_dir(profile) / "benchmark.json").read_text())
    return f"{machine_name(document['machine'])}, {document['dtype']}"


def benchmark(profile: str) -> pd.DataFrame:
    """The benchmark in ms, one row a batch size, method and keep rate; empty if not measured."""
    rows = []
    for row in benchmark_rows(profile):
        cells = {"batch": row["batch"], "method": row["method"], "keep": row["keep"]}
        for name in ("vision", "scorer", "prefill", "decode", "end_to_end", "static_end_to_end"):
            if row.get(name):
                cells[name.replace("_", " ")] = round(1e3 * row[name]["median"], 1)
        if row.get("peak_bytes"):
            cells["peak (GB)"] = round(row["peak_bytes"] / 1e9, 2)
        cells["kept (%)"] = round(100 * row["kept"], 1)
        rows.append(cells)
    return pd.DataFrame(rows)


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
        f"{name} {row['end to end (ms)']:.0f} ms, of which the scorer {row['scorer (ms)']:.1f}"
        for name, row in frame.iterrows()
    ]
    return f"Stacked bars of the time of one caption: {'; '.join(parts)}."


def describe_rows(rows: Sequence[Mapping[str, Any]], field: str) -> str:
    """Benchmark rows as text."""
    parts = [
        f"{row['method']} at batch {row['batch']}: {1e3 * row[field]['median']:.1f} ms"
        for row in rows
    ]
    return f"{field.replace('_', ' ')}: {'; '.join(parts)}."


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
            for key in ("end_to_end", "vision", "scorer", "prefill", "decode"):
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
