"""Clusters of dropped tokens by density peaks, and their means: SparseVLM's recycling."""

from __future__ import annotations

import torch
from torch import Tensor

from ..selection import top_k


def recycled_count(dropped: int) -> tuple[int, int]:
    """Of how many of the dropped tokens clusters are made, and of how many clusters.

    30 % and one more; a tenth of those and one more.

    >>> recycled_count(276), recycled_count(1), recycled_count(0)
    ((83, 9), (1, 1), (0, 0))
    """
    if not dropped:
        return 0, 0
    chosen = dropped * 3 // 10 + 1
    return chosen, chosen // 10 + 1


def density_peaks(states: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Centres `(n, clusters)` and labels `(n, r)` of states `(n, r, D)`.

    Density is exp(-mean squared distance to the `clusters` nearest, itself included), distances
    divided by √D; a token's height is its distance to the nearest one that is denser (of equals,
    the one in front), the largest distance of all for the densest. The centres have the largest
    products of the two, in rising order here; the others join the nearest centre.

    >>> density_peaks(torch.tensor([[[0.0], [0.1], [5.0], [5.2]]]), 2)[1].tolist()
    [[0, 0, 1, 1]]
    """
    size = states.shape[1]
    distance = torch.cdist(states, states, compute_mode="donot_use_mm_for_euclid_dist")
    distance = distance / states.shape[2] ** 0.5
    nearest = distance.topk(clusters, dim=-1, largest=False).values
    density = (-nearest.square().mean(-1)).exp()
    mine, other = density[..., None], density[:, None]
    place = torch.arange(size, device=states.device)
    denser = (other > mine) | ((other == mine) & (place < place[:, None]))
    largest = distance.flatten(1).amax(1)[:, None, None]
    height = torch.where(denser, distance, largest).amin(-1)
    centres = top_k(height * density, clusters, check=False)
    to_centre = distance.gather(2, centres[:, None].expand(-1, size, -1))
    labels = to_centre.argmin(-1)
    own = torch.arange(clusters, device=states.device).expand_as(centres)
    return centres, labels.scatter(1, centres, own)


def means(states: Tensor, labels: Tensor, clusters: int) -> Tensor:
    """The mean state of every cluster, `(n, clusters, D)` in the type of the states."""
    member = labels[:, None] == torch.arange(clusters, device=labels.device)[:, None]
    weight = member.float() / member.sum(-1, keepdim=True)
    return (weight @ states.float()).to(states.dtype)
