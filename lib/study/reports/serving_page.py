"""The page on what serving would cost, from the stored benchmark of LLaVA-1.5-7B's shape.

`python -m lib report docs` writes docs/serving.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .. import paths
from ..cost.serving import Load, cached_share, gpus, position_bytes, requests, seconds_an_image

PAGE = paths.PACKAGE.parent / "docs" / "serving.md"
#: methods of the benchmark that the page shows, as they are called there
SHOWN = {
    "unpruned": "Unpruned", "random": "RandomPrune", "fastv": "FastV", "entropy": "Entropy-Prune",
    "adaptive": "Entropy + coverage",
}  # fmt: skip
ABOUT = """# A million images a day, on paper

Written by `python -m lib report docs` from
[`benchmark.json`](../data/results/shape/benchmark.json): LLaVA-1.5-7B's shape, random weights, one
{device}, bfloat16, half of the visual tokens kept before the language model (FastV: layer 2),
decoding steps captured, fused at batch sizes: {fused}. Nothing was served.

Assumed: {images:,} requests a day of one image and {prompt} positions, greedy captions of
{new_tokens} tokens, batches that are always full, {used:.0%} of the time used at a peak of {peak:g}
times the mean (GPUs grow in proportion to it), {gb:.0f} GB a card (its data sheet), weights and
working memory as at the peak of one prompt.
"""
MEANING = """
One request at a time is decoding, which reads the weights whatever was pruned. In batches the
prompt counts, and pruning with it. The last column is where that ends: with so many of the unpruned
prompts found in a cache (the same image again), and no pruned one, both cost the same; below zero
nothing is saved to begin with. Users of another method saw throughput fall with concurrency
(vllm-project/vllm#51221); it was not tried here.
"""


def page(rows: Sequence[Mapping[str, Any]], device: str, load: Load) -> str:
    """The page in Markdown."""
    found = {(r["method"], r["batch"]): r for r in rows if r["new_tokens"] == load.new_tokens}
    prompt = found["unpruned", 1]["cache_bytes"] // position_bytes()
    fused = sorted({batch for (_, batch), row in found.items() if row["compiled"]})
    about = ABOUT.format(
        device=device, gb=load.memory / 1e9, prompt=prompt, **vars(load),
        fused=", ".join(map(str, fused)) or "none",
    )  # fmt: skip
    head = "| batch | method | images/s | GPUs | of unpruned | fit beside the weights |"
    lines = [about, f"{head} no gain if cached |", "|---:|---|" + "---:|" * 5]
    for batch in sorted({batch for _, batch in found}):
        bare = found["unpruned", batch]
        whole = sum(seconds_an_image(bare, load))
        for name, label in SHOWN.items():
            row = found[name, batch]
            own = sum(seconds_an_image(row, load))
            cached = "–" if row is bare else f"{cached_share(row, bare, load):.0%}"
            cells = [f"{batch}", label, f"{1 / own:.1f}", f"{gpus(own, load):.1f}"]
            cells += [f"{own / whole:.2f}", f"{requests(row, found['unpruned', 1], load):.0f}"]
            lines.append("| " + " | ".join([*cells, cached]) + " |")
    return "\n".join([*lines, MEANING])


def stored_page() -> str:
    """The page of the committed record."""
    path = paths.reference("shape").results / "benchmark.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    return page(record["rows"], record["machine"]["device"], Load())
