"""Table 1 as files and as HTML: ours in blocks, and the paper's in one of its own."""

from __future__ import annotations

import contextlib
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from ... import paths
from ...files import write_atomically
from ...labels import DIVERGENCE, RANDOM, UNSCORED
from ...profiles import load_profile
from ...stored import load_efficiency, load_scores, mark
from . import cost, divergence, paper, quality
from .format import DASH, html, latex, markdown

__all__ = ["about", "blocks", "html_blocks", "numbers", "write"]


def about(profile: str) -> str:
    """What the table is of, in one sentence."""
    scores, settings = load_scores(profile), load_profile(profile)
    said = (
        f"Table 1 at {100 * settings.keep:g} % of the visual tokens: {settings.description}; "
        f"{scores['images']} images"
    )
    if settings.random_weights:
        first = mark(profile)
        return f"{said}. {first[0].upper()}{first[1:]}: {UNSCORED}; the cost is measured."
    return f"{said}; 95 % bootstrap intervals in brackets."


def blocks(profile: str) -> list[tuple[str, pd.DataFrame]]:
    """[(heading, frame)]: our quality, FLOPs, time and memory, and the paper's table."""
    marked = f" ({RANDOM})" if mark(profile) else ""
    whole = quality.table(profile)
    found = [(f"Ours: quality, {name}", whole.loc[rows]) for name, rows in quality.parts(profile)]
    found = found or [("Ours: quality", whole)]
    with contextlib.suppress(FileNotFoundError):
        machine = cost.machine_name(load_efficiency(profile)["machine"])
        bill, flops = cost.table(profile), list(cost.FLOPS)
        found.append(("Ours: GFLOPs of one image", bill[flops].round(2)))
        title = f"Ours: time and memory, batch 1, {machine}"
        found.append((title, bill.drop(columns=flops).round(1)))
    found = [(f"{title}{marked}", frame) for title, frame in found]
    title = "The paper: LLaVA-1.5-7B, COCO Karpathy test, RTX 3090 (as printed; not comparable)"
    return [*found, (title, paper.table())]


def numbers(profile: str) -> pd.DataFrame:
    """Table 1 as plain numbers, intervals in columns of their own."""
    try:
        costs = cost.rows(profile)
    except FileNotFoundError:
        costs = {}
    found, moved = {}, divergence.part(profile, "table").get("methods", {})
    for slug, row in quality.methods(profile).items():
        kept = row["kept"]
        cells: dict[str, Any] = {"method": row["label"], "kept": round(kept["mean"], 4)}
        cells["average"] = round(kept.get("average", kept["tokens"]) / kept["of"], 4)
        cells["layer"] = row.get("layer")
        for name, value in row["values"].items():
            low, high = row["intervals"].get(name) or (None, None)
            for key, number in ((name, value), (f"{name} low", low), (f"{name} high", high)):
                cells[key] = None if number is None else round(100 * number, 2)
        if slug in moved:
            cells["divergence"] = round(moved[slug]["values"][DIVERGENCE], 5)
        found[slug] = cells | (_costs(costs[slug]) if slug in costs else {})
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("slug")


def _costs(row: dict[str, Any]) -> dict[str, Any]:
    cells = {f"FLOPs {name}": count for name, count in row["flops"].items()}
    cells["FLOPs profiler"] = row["flops_counted"]
    for key in ("end_to_end", "vision", "scorer", "prefill", "decode", *cost.FAST.values()):
        if key in row:
            cells[f"{key} ms"] = round(1e3 * row[key]["median"], 2)
    return cells | {"cache bytes": row["cache_bytes"], "peak bytes": row.get("peak_bytes")}


def write(profile: str) -> dict[str, Path]:
    """Write `figures/<profile>/table1.{csv,md,tex}`; returns the paths by name.

    The CSV holds plain numbers with the bounds of their intervals; `table1_paper.csv` the paper's.
    """
    folder, said, parts = paths.figures_dir(profile), about(profile), blocks(profile)
    notes = quality.table(profile).attrs["notes"]
    md = [f"{title}\n\n{markdown(frame)}" for title, frame in parts]
    md += [f"{DASH} {name}: {text}" for name, text in notes.items()]
    tex = [f"% {title}\n{latex(frame)}" for title, frame in parts]
    texts = {
        "table1.csv": numbers(profile).to_csv(lineterminator="\n"),
        "table1_paper.csv": paper.PAPER.to_csv(lineterminator="\n"),
        "table1.md": f"{said}\n\n" + "\n\n".join(md) + "\n",
        "table1.tex": f"% {said}\n" + "\n\n".join(tex) + "\n",
    }
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return {name: folder / name for name in texts}


def html_blocks(profile: str) -> str:
    """The blocks of Table 1 as HTML, each under its heading."""
    parts = [f'<p class="note">{escape(about(profile))}</p>']
    parts += [f"<h3>{escape(title)}</h3>\n{html(frame)}" for title, frame in blocks(profile)]
    for name, text in quality.table(profile).attrs["notes"].items():
        parts.append(f'<p class="note">{DASH} {escape(name)}: {escape(text)}</p>')
    return "\n".join(parts)
