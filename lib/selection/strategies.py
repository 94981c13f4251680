"""The choices of exactly k tokens by name, to compare with each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..clustering import item_seeds
from ..entropy import constants
from ..entropy.gram import checked_gram
from .algorithm_1 import hierarchical
from .greedy import adaptive, dpp, greedy, renyi2_greedy
from .ranking import check_k, mask_of
from .token_level import token_level


def one_shot(tokens: Tensor, k: int, *, random_state: int = 0, **options: Any) -> Tensor:
    """The k largest exact leave-one-out scores, `token_level`; `random_state` is not used.

    >>> one_shot(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), 1).tolist()
    [False, False, True]
    """
    del random_state
    return token_level(tokens, k, **options)


def proportions(
    size: int,
    k: int,
    *,
    n_clusters: int | None = None,
    core_clusters: int | None = None,
    tokens_per_cluster: int | None = None,
) -> tuple[int, int, int]:
    """M, k_c and t_pc of Algorithm 1 for a budget of k of N = `size` tokens; those given are kept.

    By default k_c = N / 8, but no more than the budget and no more than 72, its value at the
    576 tokens of LLaVA-1.5, so that the cost grows slowly beyond; t_pc is what the budget needs of
    each core cluster, and M = 2 k_c. The paper: M = 32, k_c = 16, t_pc = 2 at N = 256. N / 8 was
    chosen on validation scenes (`data/results/embedded-val/clusters.json.xz`); the bound for cost.

    >>> proportions(256, 128), proportions(256, 32), proportions(576, 288)
    ((64, 32, 4), (64, 32, 1), (144, 72, 4))
    >>> proportions(256, 128, tokens_per_cluster=2)
    (128, 64, 2)
    """
    if core_clusters is not None:
        cores, per_cluster = core_clusters, tokens_per_cluster or -(-k // core_clusters)
    elif tokens_per_cluster is not None:
        cores, per_cluster = -(-k // tokens_per_cluster), tokens_per_cluster
    else:
        per_cluster = -(-k // min(k, max(1, size // 8), 72))
        cores = k // per_cluster  # k_c * t_pc, the adaptive count's bound, stays within the budget
    return n_clusters or min(size, 2 * cores), cores, per_cluster


def algorithm_1(
    tokens: Tensor, k: int, *, tokens_per_cluster: int | None = None, random_state: int = 0,
    **options: Any,
) -> Tensor:  # fmt: skip
    """Algorithm 1 at a budget of exactly k, with the numbers of `proportions`; mask (..., N).

    Takes the options of `hierarchical`, and raises what it raises.

    >>> algorithm_1(torch.eye(4).repeat_interleave(4, 0), 4).sum().item()
    4
    """
    size = tokens.shape[-2]
    check_k(k, size, tokens.shape)
    numbers = proportions(size, k, tokens_per_cluster=tokens_per_cluster)
    return hierarchical(tokens, *numbers, budget=k, random_state=random_state, **options).mask


def k_medoids(tokens: Tensor, k: int, *, random_state: int = 0, **options: Any) -> Tensor:
    """The token nearest each of k centroids: Algorithm 1 with M = k_c = k and t_pc = 1.

    Unit tokens are clustered, by their angles. Takes the options of `hierarchical`, and raises what
    it raises.

    >>> k_medoids(torch.eye(3).repeat_interleave(2, 0), 3).tolist()
    [True, False, True, False, True, False]
    """
    check_k(k, tokens.shape[-2], tokens.shape)
    given: dict[str, Any] = {"cluster_on": "unit", "random_state": random_state, "budget": k}
    return hierarchical(tokens, k, k, 1, **(given | options)).mask


@constants
def _permutations(seeds: tuple[int, ...], size: int, device: torch.device) -> Tensor:
    """Permutations (len(seeds), size), kept on the device."""
    rows = [torch.randperm(size, generator=torch.Generator().manual_seed(s)) for s in seeds]
    return torch.stack(rows).to(device)


@torch.no_grad()
def random(
    tokens: Tensor,
    k: int,
    *,
    random_state: int | Sequence[int] = 0,
    gram: bool = False,
    check: bool = True,
) -> Tensor:
    """k tokens at random; an int seed draws the same positions for every item of a batch.

    Raises:
        ValueError: k outside 1..N, seeds that are neither one nor one per item.

    >>> random(torch.ones(5, 2), 3, random_state=1).sum().item()
    3
    """
    shape = checked_gram(tokens, check=check).shape if gram else tokens.shape
    lead, size = shape[:-2], shape[-2]
    check_k(k, size, shape)
    items = lead.numel()
    order = _permutations(item_seeds(random_state, items), size, tokens.device)
    mask = mask_of(order[:, :k], size)
    return mask.expand(items, -1).clone().reshape(*lead, size)


STRATEGIES: dict[str, Callable[..., Tensor]] = {
    "random": random,
    "one-shot": one_shot,
    "algorithm-1": algorithm_1,
    "greedy": greedy,
    "dpp": dpp,
    "renyi2-greedy": renyi2_greedy,
    "k-medoids": k_medoids,
    "adaptive": adaptive,
}
"""Name → callable(tokens (..., N, D), k, *, random_state, gram, check) → mask with exactly k."""
