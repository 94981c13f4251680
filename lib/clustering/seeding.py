"""The first centres: greedy k-means++ from pairwise distances, with seeded random numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..entropy import constants

_TRIALS = 4  # candidates per step of the greedy k-means++ seeding


@constants
def uniforms(
    seeds: tuple[int, ...], steps: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Uniform numbers (len(seeds), steps, trials), each item's from its own seed.

    >>> uniforms((0, 1), 3, torch.float64, torch.device("cpu")).shape
    torch.Size([2, 3, 4])
    """
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        rows.append(torch.rand(steps, _TRIALS, generator=generator, dtype=torch.float64))
    return torch.stack(rows).to(device, dtype)


@constants
def draws(seeds: tuple[int, ...], steps: int, device: torch.device) -> tuple[Tensor, ...]:
    """`uniforms` step by step: each (len(seeds), trials), float64.

    >>> len(draws((0,), 3, torch.device("cpu")))
    3
    """
    return uniforms(seeds, steps, torch.float64, device).transpose(0, 1).contiguous().unbind()


def item_seeds(random_state: int | Sequence[int], items: int) -> tuple[int, ...]:
    """One seed for all items (given an int), or one per item of the flattened batch.

    Raises:
        ValueError: neither one seed nor one per item.

    >>> item_seeds(7, 3), item_seeds([1, 2, 3], 3)
    ((7,), (1, 2, 3))
    """
    seeds = (random_state,) if isinstance(random_state, int) else tuple(random_state)
    if len(seeds) not in (1, items):
        raise ValueError(f"random_state needs one seed or one per item ({items}), got {len(seeds)}")
    return seeds


def greedy_centres(distance: Tensor, draws: Sequence[Tensor]) -> Tensor:
    """Greedy k-means++: M centres (B, M) from pairwise squared distances (B, N, N).

    The distances are whole numbers, so that their sums in float64 are exact and no order of
    summation can change a choice. What the M steps cost is calls more than arithmetic: they write
    into the same buffers, and a single item, which is one image, is spared the offsets.

    >>> distance = torch.tensor([[[0.0, 9.0], [9.0, 0.0]]])
    >>> sorted(greedy_centres(distance, draws((0,), 2, torch.device("cpu")))[0].tolist())
    [0, 1]
    """
    batch, size, _ = distance.shape
    single = batch == 1
    table = distance.reshape(-1, size)
    table = table.double() if single else table  # else the few rows of a step are converted
    item = torch.arange(batch, device=table.device)
    offset, before = (item * size).unsqueeze(-1), item * _TRIALS
    centre = (draws[0][:, 0] * size).long().clamp_max(size - 1).expand(batch)
    closest = table[centre + item * size].double()
    cumulative, target = torch.empty_like(closest), closest.new_empty(batch, _TRIALS)
    at = torch.empty_like(target, dtype=torch.int64)
    rows = table.new_empty(batch * _TRIALS, size)
    nearer, sums = torch.empty_like(rows, dtype=torch.float64), torch.empty_like(target)
    total, from_all = cumulative[:, -1:], closest.unsqueeze(1)
    bounds, wanted = cumulative[:, :-1].squeeze(0), target.squeeze(0)
    of_item, per_item = rows.view(batch, _TRIALS, size), nearer.view(batch, _TRIALS, size)
    trials, best = [], []
    for uniforms in draws[1:]:
        torch.cumsum(closest, -1, out=cumulative)
        torch.mul(uniforms, total, out=target)
        if single:  # a draw on the total lands on the last token
            tokens = places = torch.searchsorted(bounds, wanted, right=True)
        else:
            tokens = torch.searchsorted(cumulative, target, right=True).clamp_max_(size - 1)
            places = torch.add(tokens, offset, out=at).view(-1)
        torch.index_select(table, 0, places, out=rows)
        torch.minimum(of_item, from_all, out=per_item)
        torch.sum(per_item, -1, out=sums)
        first = torch.argmin(sums, -1)
        torch.index_select(nearer, 0, first if single else first + before, out=closest)
        trials.append(tokens)
        best.append(first)
    if not trials:
        return centre.unsqueeze(-1)
    chosen = torch.stack(trials).view(len(trials), batch, _TRIALS)
    chosen = chosen.gather(-1, torch.stack(best).unsqueeze(-1)).squeeze(-1)
    return torch.cat([centre.unsqueeze(-1), chosen.T], -1)
