"""What serving many images a day would cost, computed from the stored benchmark of a shape."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import paths
from ..models.shapes import SHAPES

PAGE = paths.PACKAGE.parent / "docs" / "serving.md"
SHOWN = {
    "unpruned": "Unpruned", "random": "RandomPrune", "fastv": "FastV", "entropy": "Entropy-Prune",
    "adaptive": "Entropy + coverage",
}  # fmt: skip


ABOUT = """# A million images a day, on paper

Written by `python -m lib report docs` from
[`benchmark.json`](../data/results/shape/benchmark.json): LLaVA-1.5-7B's shape, random weights, one
{device}, bfloat16, half of the visual tokens kept before the language model (FastV: layer 2).
Nothing was served.

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


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is assumed.

    images: a day, one a request. peak: the busiest hour over the mean. used: share of the time that
    a GPU works then. memory: bytes of the card, as its data sheet has them. new_tokens: of a greedy
    caption.
    """

    images: int = 1_000_000
    peak: float = 3.0
    used: float = 0.7
    memory: float = 141e9
    new_tokens: int = 64


def seconds_an_image(row: Mapping[str, Any], load: Load) -> tuple[float, float]:
    """Seconds of the prompt and of the tokens behind its first, of a benchmark row, an image.

    >>> row = {"batch": 2, "static_prefill": {"median": 1.0}, "static_decode": {"median": 0.1}}
    >>> seconds_an_image(row, Load(new_tokens=11))
    (0.5, 0.5)
    """
    steps = (load.new_tokens - 1) * row["static_decode"]["median"]
    return row["static_prefill"]["median"] / row["batch"], steps / row["batch"]


def gpus(seconds: float, load: Load) -> float:
    """GPUs that keep up at the peak.

    >>> gpus(0.0864, Load(images=1_000_000, peak=2.0, used=0.5))
    4.0
    """
    return load.images * seconds * load.peak / load.used / 86_400


def position_bytes(model: str = "llava-1.5-7b", width: int = 2) -> int:
    """Bytes of the cache that one position takes: keys and values of all layers.

    width: bytes of a number, two in bfloat16.

    >>> position_bytes()
    524288
    """
    text = SHAPES[model]["text"]
    head = text["hidden_size"] // text["num_attention_heads"]
    return 2 * text["num_hidden_layers"] * text["num_key_value_heads"] * head * width


def requests(row: Mapping[str, Any], unpruned: Mapping[str, Any], load: Load) -> float:
    """Requests whose caches fit beside what one prompt alone takes at its peak."""
    own = row["cache_bytes"] / row["batch"] + load.new_tokens * position_bytes()
    return (load.memory - unpruned["peak_bytes"]) / own


def cached_share(row: Mapping[str, Any], unpruned: Mapping[str, Any], load: Load) -> float:
    """The share of unpruned prompts that has to come from a cache for pruning to save nothing.

    Their own prefill is spared then, while every pruned prompt is computed.
    """
    whole, own = sum(seconds_an_image(unpruned, load)), sum(seconds_an_image(row, load))
    return (whole - own) / seconds_an_image(unpruned, load)[0]


def page(rows: Sequence[Mapping[str, Any]], device: str, load: Load) -> str:
    """The page in Markdown."""
    found = {(r["method"], r["batch"]): r for r in rows if r["new_tokens"] == load.new_tokens}
    prompt = found["unpruned", 1]["cache_bytes"] // position_bytes()
    about = ABOUT.format(device=device, gb=load.memory / 1e9, prompt=prompt, **vars(load))
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
