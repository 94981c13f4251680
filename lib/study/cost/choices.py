"""What the rules cost alone: the time to choose some of an image's tokens, without a model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...entropy import gram
from ...pruning.engine.graphs import graphs
from ...selection import (
    Worth,
    adaptive,
    algorithm_1,
    conditional_dpp,
    dpp,
    facility_location,
    farthest_points,
    greedy,
    token_level,
    weighted,
)
from .plan import Measurements
from .timing import machine, measure

#: LLaVA-1.5's image: tokens, and the width of its vision tower
TOKENS, WIDTH = 576, 1024
#: layers that Entropy-Prune merges
DEPTH = 4


def _weights(tokens: Tensor) -> Tensor:
    """Some weights (B, N) of mean one, in place of attention."""
    weights = tokens[..., 0].float().exp()
    return weights / weights.mean(-1, keepdim=True)


def _conditional(tokens: Tensor, k: int) -> Tensor:
    return conditional_dpp(tokens, _weights(tokens), k, check=False)


#: `name: choice (tokens (B, N, D) of one layer, k)` of what is chosen
RULES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "Entropy-Prune": lambda x, k: algorithm_1(x, k, layers=[x] * DEPTH, check=False),
    "Entropy-Prune, unit tokens": lambda x, k: algorithm_1(
        x, k, layers=[x] * DEPTH, cluster_on="unit", check=False
    ),
    "Entropy-Prune, token level": lambda x, k: token_level(x, k, check=False),
    "Entropy, greedy": lambda x, k: greedy(x, k, check=False),
    "Entropy + coverage": lambda x, k: adaptive(x, k, check=False),
    "Attention-weighted coverage": lambda x, k: weighted(x, k, _weights(x), check=False),
    "Attention-weighted coverage and entropy": lambda x, k: weighted(
        x, k, _weights(x), worth=Worth(entropy=1.0), check=False
    ),
    "Coverage (as MMTok, SCOPE)": lambda x, k: facility_location(gram(x, check=False), k,
                                                                 check=False),
    "Max-min distance (as DivPrune)": lambda x, k: farthest_points(x, k, check=False),
    "Determinant": lambda x, k: dpp(x, k, check=False),
    "Conditional determinant (as CDPruner)": _conditional,
}  # fmt: skip


@torch.inference_mode()
def choices(
    path: Path,
    *,
    kept: Sequence[int] = (64, 288),
    batches: Sequence[int] = (1, 32),
    repeats: int = 21,
    device: str | torch.device | None = None,
    tokens: int = TOKENS,
    rules: Sequence[str] = tuple(RULES),
) -> None:
    """Time the rules at each number of kept tokens and each batch size, into `path`.

    On a GPU a choice is replayed from its captured graph, as the pruners replay it.

    Raises `ValueError` for an unknown rule, and for more tokens kept than there are.
    """
    if unknown := set(rules) - RULES.keys():
        raise ValueError(f"unknown rule {min(unknown)!r}: choose from {', '.join(RULES)}")
    if max(kept) > tokens:
        raise ValueError(f"--kept {max(kept)} of {tokens} tokens: keep at most as many")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    record = Measurements(path, {"machine": machine()})
    work = [(b, k, rule) for b in batches for k in kept for rule in rules]
    given = {batch: _tokens(batch, tokens, device) for batch in batches}
    for batch, count, rule in tqdm(work, desc="choices", disable=None):
        function = functools.partial(_chosen, RULES[rule], count)
        call = functools.partial(graphs, ("choice", rule, count), function, [given[batch]])
        timing = measure(call, device=device, warmup=3, repeats=repeats)
        row = {"rule": rule, "tokens": tokens, "kept": count, "batch": batch}
        record.put("choices", row | {"seconds": asdict(timing)}, *row)
        print(
            f"{rule:<40} {count:>3} of {tokens}, batch {batch:>2}: "
            f"{1e3 * timing.median / batch:.3f} ms an image",
            flush=True,
        )


def _tokens(batch: int, count: int, device: torch.device) -> Tensor:
    """Random tokens (B, N, D), of half precision on a GPU."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(batch, count, WIDTH, generator=generator).to(device)
    return tokens.bfloat16() if device.type == "cuda" else tokens


def _chosen(rule: Callable[[Tensor, int], Tensor], kept: int, tensors: list[Tensor]) -> Tensor:
    return rule(tensors[0], kept)
