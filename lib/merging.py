"""Bipartite soft matching, which merges similar tokens, and its schedule (arXiv 2210.09461)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Merged(NamedTuple):
    """Tokens after merging: `(n, T, D)`, with `(n, T)` sizes and positions before any merging."""

    tokens: Tensor
    sizes: Tensor
    positions: Tensor


def merge(tokens: Tensor, metric: Tensor, sizes: Tensor, positions: Tensor, r: int) -> Merged:
    """One step of bipartite soft matching: the r most similar pairs become r tokens.

    tokens `(n, T, D)` and metric `(n, T, d)`, both with the class token first; sizes `(n, T)`
    counts the patches a token stands for, positions `(n, T)` its place in the input. Every second
    token looks for its most similar partner among the others; the r closest are averaged into
    their partner, weighted by size. The class token is never merged away. The partner keeps its
    own position. r = 0 changes nothing.

    Raises:
        ValueError: r negative or more than there are pairs.

    >>> tokens = torch.tensor([[[9.0, 9.0], [0.0, 1.0], [1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]])
    >>> out = merge(tokens, tokens, torch.ones(1, 5), torch.arange(5)[None], 1)
    >>> out.tokens.tolist(), out.positions.tolist()  # the third and the fourth became one
    ([[[9.0, 9.0], [0.0, 5.0], [0.0, 1.0], [2.0, 0.0]]], [[0, 4, 1, 3]])
    """
    if r == 0:
        return Merged(tokens, sizes, positions)
    length = tokens.shape[1]
    if r < 0:
        raise ValueError(f"r must not be negative, got {r}")
    if r > (length - 1) // 2:
        raise ValueError(f"r must be at most {(length - 1) // 2} for {length} tokens, got {r}")
    metric = metric / metric.norm(dim=-1, keepdim=True)
    source, target = slice(0, None, 2), slice(1, None, 2)
    similarity = metric[:, source] @ metric[:, target].transpose(1, 2)
    similarity[:, 0] = float("-inf")  # the class token
    best, partner = similarity.max(-1)
    order = best.argsort(dim=-1, descending=True, stable=True)
    merged, rest = order[:, :r], order[:, r:].sort(dim=1).values
    partner = partner.gather(1, merged)

    def rows(states: Tensor, index: Tensor) -> Tensor:
        return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))

    weight = sizes[..., None].to(tokens.dtype)
    weighted = torch.cat([tokens * weight, weight], dim=-1)  # sums of tokens and of sizes
    kept, sums = weighted[:, source], weighted[:, target]
    # a product with the indicator: adding by index has no fixed order on a GPU
    into = torch.arange(sums.shape[1], device=partner.device)[None, :, None] == partner[:, None]
    sums = sums + into.to(sums.dtype) @ rows(kept, merged)
    out = torch.cat([rows(kept, rest), sums], dim=1)
    place = torch.cat([positions[:, source].gather(1, rest), positions[:, target]], dim=1)
    return Merged(out[..., :-1] / out[..., -1:], out[..., -1].round().to(sizes.dtype), place)


def schedule(tokens: int, keep: int, blocks: int) -> list[int]:
    """How many tokens each block merges so that `keep` of `tokens` patches are left.

    As even as possible, early blocks first; at most half of the patches in one block.

    Raises:
        ValueError: so many merges do not fit into the blocks.

    >>> schedule(256, 128, 4)
    [32, 32, 32, 32]
    """
    if keep < (smallest := _smallest(tokens, blocks)):
        raise ValueError(
            f"{tokens} tokens cannot be merged into {keep} within {blocks} blocks "
            f"(at most half in each); the smallest count here is {smallest}"
        )
    plan, length = [], tokens
    for later in reversed(range(blocks)):
        r = min(-(-(length - keep) // (later + 1)), length // 2)
        while _smallest(length - r, later) > keep:  # rounding: an even share can be too little
            r += 1
        plan.append(r)
        length -= r
    return plan


def _smallest(tokens: int, blocks: int) -> int:
    """What is left of `tokens` if each block merges half of them."""
    for _ in range(blocks):
        tokens -= tokens // 2
    return tokens
