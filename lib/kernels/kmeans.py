"""K-means of tokens from their Gram matrix."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .common import _on_device
from .dispatch import MAX_TOKENS
from .lloyd import lloyd
from .seeding import _pairs_kernel, _seed_kernel, _seed_many_kernel

#: distances that the seeding of many tokens looks at together
_COLS = 4096


@_on_device
def kmeans(
    matrix: Tensor,
    n_clusters: int,
    uniforms: Tensor,
    *,
    n_iter: int,
    refill_every: int,
    unit: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Labels (B, N) int64, counts (B, M) int64 and squared distances (B, N) of `lib.clustering`.

    `matrix` (B, N, N) float32 has a diagonal of ones, and N is `MAX_TOKENS` at most, or, if not
    `unit`, one of mean one, so that no entry exceeds N. `uniforms` (B or 1, M, trials) is float64.
    """
    items, size, _ = matrix.shape
    matrix, uniforms = matrix.contiguous(), uniforms.contiguous()
    norms = matrix if unit else matrix.diagonal(dim1=-2, dim2=-1).contiguous()
    steps, trials = uniforms.shape[1:]
    pairs = matrix.new_empty(matrix.shape, dtype=torch.int32 if unit else torch.float32)
    count = matrix.numel()
    _pairs_kernel[(triton.cdiv(count, 2048),)](
        matrix, norms, pairs, size, count, UNIT=unit, BLOCK=2048
    )
    kind = torch.int32 if unit else torch.int64
    keys = torch.empty(items, 2, size, dtype=kind, device=matrix.device)
    numbers = size, n_clusters, steps * trials if len(uniforms) > 1 else 0, 2 * size
    if size <= MAX_TOKENS:
        _seed_kernel[(items,)](
            pairs, uniforms, keys, *numbers,
            UNIT=unit, TRIALS=trials, BLOCK=triton.next_power_of_2(size), num_warps=8,
        )  # fmt: skip
    else:
        closest = matrix.new_empty(items, size)
        _seed_many_kernel[(items,)](
            pairs, uniforms, keys, closest, *numbers, TRIALS=trials, COLS=_COLS, num_warps=16
        )
    del pairs  # of no use once there are centres
    return lloyd(
        matrix, norms, keys, n_clusters, n_iter=n_iter, refill_every=refill_every, unit=unit
    )
