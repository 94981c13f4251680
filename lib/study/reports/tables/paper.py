"""Table 1 as the paper prints it, and what is left of the unpruned model, there and here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ...labels import TABLE_1
from ...profiles import load_profile
from ...stored import load_scores
from .cost import FAST, FAST_WHOLE, rows
from .quality import methods

__all__ = ["PAPER", "credibility", "ratios", "table"]

#: where the unpruned LLaVA-1.5-7B should land on COCO (README of pkunlp-icler/FastV)
PUBLISHED_CIDER = (108, 110)
#: LLaVA-1.5-7B, COCO, 50 % pruning, one RTX 3090
PAPER = pd.DataFrame(
    [
        ("LLaVA-1.5-7B", 37.52, 29.10, 57.80, 99.80, 22.50, 60.02, 4221),
        ("RandomPrune", 28.93, 24.31, 51.02, 93.41, 18.11, 44.15, 3418),
        ("ToMe", 36.12, 28.53, 56.91, 98.34, 21.79, 43.09, 3105),
        ("FastViT-Prune", 36.49, 28.62, 57.04, 100.94, 21.93, 41.52, 2815),
        ("Entropy-Prune", 36.84, 28.81, 57.33, 98.27, 22.14, 51.63, 3472),
    ],
    columns=[
        "Method",
        "BLEU-4",
        "METEOR",
        "ROUGE-L",
        "CIDEr",
        "SPICE",
        "FLOPs (G)",
        "Latency (ms)",
    ],
).set_index("Method")


def table() -> pd.DataFrame:
    """The paper's Table 1."""
    return PAPER.copy()


def ratios(profile: str) -> pd.DataFrame:
    """What is left of the unpruned model's scores and cost, ours and the paper's, in per cent.

    FLOPs are the visual encoder's, as the paper has them, beside ours to the first token.
    The latency is that of the fast path where it was measured.
    """
    mine = methods(profile, extra=False)
    try:
        costs = rows(profile)
    except FileNotFoundError:
        costs = {}
    found: dict[str, dict[str, float]] = {}
    names = dict(zip(TABLE_1, PAPER.index))
    for slug, row in mine.items():
        theirs = names[row["method"]]
        cells = _scores_left(row["values"], mine["unpruned"]["values"])
        if slug in costs and "unpruned" in costs:
            cells |= _cost_left(costs[slug], costs["unpruned"])
        left = 100 * PAPER.loc[theirs] / PAPER.iloc[0]
        for ours, printed in (
            ("BLEU-4", "BLEU-4"),
            ("CIDEr", "CIDEr"),
            ("FLOPs", "FLOPs (G)"),
            ("latency", "Latency (ms)"),
        ):
            cells[f"{ours}, paper"] = left[printed]
        found[row["label"]] = cells
    frame = pd.DataFrame.from_dict(found, orient="index").round(1).rename_axis("Method")
    return frame[sorted(frame.columns, key=lambda c: (c.split(",")[0], "paper" in c))]


def _scores_left(values: dict, base: dict) -> dict[str, float]:
    names = [name for name in ("BLEU-4", "CIDEr") if values.get(name) is not None]
    return {f"{name}, ours": 100 * values[name] / (base[name] or np.nan) for name in names}


def _cost_left(row: dict, base: dict) -> dict[str, float]:
    flops, whole = (sum(r["flops"][k] for k in ("exact", "vision", "scorer")) for r in (row, base))
    # at batch 1 on a GPU `generate` mostly waits for Python
    seconds, unpruned = (
        (r.get(FAST[FAST_WHOLE]) or r["end_to_end"])["median"] for r in (row, base)
    )
    latency = seconds / unpruned
    if "static_end_to_end" not in row and "ratio" in row:  # of the same rounds
        latency = row["ratio"]["end_to_end"]["median"]
    cells = {
        "FLOPs to the first token, ours": 100 * flops / whole,
        "latency, ours": 100 * latency,
    }
    if "encoder" in row["flops"]:  # what the paper calls FLOPs
        cells["FLOPs, ours"] = 100 * row["flops"]["encoder"] / base["flops"]["encoder"]
    return cells


def credibility(profile: str) -> str:
    """Does the unpruned model score as published? One line, for LLaVA-1.5-7B on COCO's test split.

    Nothing is said of other models and data, for which no score was published, or of random
    weights.
    """
    settings = load_profile(profile)
    name = Path(settings.model).name.lower()
    on_coco = Path(settings.json_path or "dataset_coco.json").name == "dataset_coco.json"
    here = "/" in settings.model and name.startswith("llava-1.5-7b") and on_coco
    if not here or settings.random_weights or settings.split != "test":
        return "does not apply: a score to compare with exists for LLaVA-1.5-7B on COCO alone"
    value = load_scores(profile)["methods"]["unpruned"]["values"].get("CIDEr")
    if value is None:
        return "cannot be checked: CIDEr is not among the profile's metrics"
    low, high = PUBLISHED_CIDER
    score = round(100 * value, 1)
    off = score - min(max(score, low), high)
    check = "check prompt, precision, image processor, references"
    verdict = f"off by {off:+.1f}: {check}" if off else "inside"
    return (
        f"unpruned CIDEr {score:.1f}; expected {low:g} to {high:g} (FastV's README: 108.7 on COCO "
        f"2014, 110.4 on 2017); the paper's own {PAPER['CIDEr'].iloc[0]:.1f}. Verdict: {verdict}"
    )
