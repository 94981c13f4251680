"""Cost against the number of visual tokens, on one model with images of other sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tqdm.auto import tqdm

from ...decoding import StaticDecoder
from ...kernels import MAX_TOKENS
from .latency import latency
from .plan import Measurements, Plan, pruner_of
from .probe import Probe
from .prompts import has_grids, random_prompts, square

#: the methods whose cost against the number of tokens is measured; "adaptive": entropy + coverage
GROWING = ("unpruned", "random", "fastv", "entropy", "adaptive")


@contextmanager
def resized(model: Any, tokens: int) -> Iterator[None]:
    """The model for images of another size: its vision tower with new position embeddings.

    A tower that takes images of any size stays as it is.

    Raises `ValueError` if `tokens` is not a square.
    """
    side = square(tokens)
    if has_grids(model):
        yield
        return
    vision = model.config.vision_config
    tower = getattr(model.model.vision_tower, "vision_model", model.model.vision_tower)
    size, embeddings = vision.image_size, tower.embeddings
    weight = embeddings.patch_embedding.weight
    try:
        vision.image_size = side * vision.patch_size
        with torch.device(weight.device):
            tower.embeddings = type(embeddings)(vision).to(weight.dtype)
        yield
    finally:
        vision.image_size, tower.embeddings = size, embeddings


def growth(model: Any, record: Measurements, plan: Plan) -> None:
    """Scorer and time to the first token against the number of visual tokens."""
    decoder = StaticDecoder(model, compiled=plan.compiled)
    work = [
        (tokens, batch, name)
        for tokens in plan.growth
        for batch in plan.batches[:2]
        for name in GROWING
        if name != "adaptive" or tokens <= MAX_TOKENS  # greedy kernels take no more
    ]
    for tokens, batch, name in tqdm(work, desc="growth", disable=None):
        with resized(model, tokens):
            inputs = random_prompts(model, batch, tokens=tokens)
            probe = Probe(model, inputs, pruner_of(name, plan.keep[0]), 1, decoder)
            row = {"method": name, "tokens": tokens, "compiled": plan.compiled}
            row |= latency(probe, repeats=plan.repeats, generate_repeats=0)
        row["scorer_share"] = row["scorer"]["median"] / row["static_prefill"]["median"]
        record.put("growth", row, "method", "tokens", "batch")
        print(
            f"{name:<14} {tokens:>5} tokens, batch {batch:>2}: scorer "
            f"{1e3 * row['scorer']['median']:.2f} ms of {1e3 * row['static_prefill']['median']:.2f}"
            f" ms to the first token ({row['scorer_share']:.1%})",
            flush=True,
        )
