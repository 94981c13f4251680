"""K-means of tokens from their Gram matrix."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import _GRID, _TILE, _on_device, _plus_dot, _round

_LABEL_BITS = tl.constexpr(12)
_LABEL_MASK = tl.constexpr(4095)
_SUM = tl.constexpr(2.0**30)
_FEW = tl.constexpr(2**27)

# Squared distances are whole numbers of 1/65536 of the mean squared length (lib.clustering's grid).
# An assignment is one integer, distance << 12 | cluster: the minimum over clusters is the nearest
# one, of equals the first. For unit tokens it fits int32; between tokens as they are a distance can
# be 4 N times that mean, which takes int64. The seeding adds distances up as whole numbers, whose
# sums know no order: those of unit tokens on the grid; others, which are float32, in some 2^-30 of
# their sum, which falls with every centre.


@triton.jit
def _whole(distance, kind: tl.constexpr):
    """Distances on the grid, as whole numbers; float32 from 2^22 on steps by halves at least."""
    steps = tl.maximum(distance * _GRID, 0.0)
    return tl.where(steps < 4194304.0, _round(steps), steps).to(kind)


@triton.jit
def _largest(kind: tl.constexpr):
    return 2147483647 if kind == tl.int32 else 9223372036854775807


@triton.jit
def _coarse(distance, UNIT: tl.constexpr):
    """Distances of the seeding on the grid of all others."""
    return distance if UNIT else _whole(distance, tl.int64)


@triton.jit
def _counted(distance, scale, UNIT: tl.constexpr):
    """Distances as whole numbers whose sums fit int32."""
    return distance if UNIT else (distance * scale + 0.5).to(tl.int32)


@triton.jit
def _scale(distance):
    """The power of two, for equal sums to stay equal, that makes distances add up to some 2^30."""
    total = tl.sum(distance, axis=0)
    times = _SUM / tl.where(total > 0, total, _SUM)
    return ((times.to(tl.int32, bitcast=True) >> 23) << 23).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["clusters", "per_item"])
def _seed_kernel(
    pairs, uniforms, packed, size, clusters, per_item,
    UNIT: tl.constexpr, TRIALS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Greedy k-means++ of one item from its squared distances, and the first assignment."""
    item = tl.program_id(0).to(tl.int64)
    pairs += item * size * size
    uniforms += item * per_item
    at = tl.arange(0, BLOCK)
    inside = at < size
    trial = tl.arange(0, TRIALS)
    centre = tl.minimum((tl.load(uniforms) * size).to(tl.int32), size - 1)
    closest = tl.load(pairs + centre * size + at, mask=inside, other=0)
    scale = 1.0 if UNIT else _scale(closest)
    counts = _counted(closest, scale, UNIT)
    total = tl.sum(counts, axis=0)
    label = tl.zeros((BLOCK,), dtype=tl.int32)
    share = tl.load(uniforms + TRIALS + trial, mask=trial < TRIALS * (clusters - 1), other=0.0)
    for step in range(1, clusters):
        target = (share * total.to(tl.float64)).to(tl.int32)
        following = step + 1
        share = tl.load(uniforms + tl.minimum(following, clusters - 1) * TRIALS + trial)
        cumulative = tl.cumsum(counts, axis=0)
        # beyond the last token the sum stays at the total, which no target reaches
        below = cumulative[None, :] <= target[:, None]
        tokens = tl.minimum(tl.sum(below.to(tl.int32), axis=1), size - 1)
        place = pairs + tokens[:, None] * size + at[None, :]
        rows = tl.load(place, mask=inside[None, :], other=0)
        rows = tl.minimum(rows, closest[None, :])
        sums = tl.sum(_counted(rows, scale, UNIT), axis=1)
        total = tl.min(sums, axis=0)
        best = tl.min(tl.where(sums == total, trial, TRIALS), axis=0)
        chosen = tl.sum(tl.where(trial[:, None] == best, rows, 0), axis=0)
        label = tl.where(_coarse(chosen, UNIT) < _coarse(closest, UNIT), step, label)
        closest = chosen
        if not UNIT and total < _FEW:
            scale = _scale(closest)
            total = tl.sum(_counted(closest, scale, UNIT), axis=0)
        counts = _counted(closest, scale, UNIT)
    key = (_coarse(closest, UNIT) << _LABEL_BITS) | label
    tl.store(packed + item * size + at, key, mask=inside)


@triton.jit
def _pairs_kernel(k, norms, pairs, size, count, UNIT: tl.constexpr, BLOCK: tl.constexpr):
    """Squared distances, those of unit tokens on the grid; zero between copies."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    product = tl.load(k + at, mask=at < count, other=1.0)
    if UNIT:
        distance = _whole(2.0 - 2.0 * product, tl.int32)
    else:
        row = tl.load(norms + at // size, mask=at < count, other=1.0)
        col = at // (size * size) * size + at % size
        both = row + tl.load(norms + col, mask=at < count, other=1.0)
        distance = both - 2.0 * product
        # a product of two long tokens errs by as much more as they are longer than the mean
        copies = distance * _GRID < 0.5 * tl.maximum(0.5 * both, 1.0)
        distance = tl.where(copies, 0.0, distance)
    tl.store(pairs + at, distance, mask=at < count)


@triton.jit
def _own_kernel(k, packed, following, own, done, size, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Σ_j K_ij over the tokens j of i's own cluster; also clears the next assignment."""
    item = tl.program_id(1).to(tl.int64)
    if tl.load(done + item) == 0:
        k += item * size * size
        packed += item * size
        rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        inside = rows < size
        label = tl.load(packed + rows, mask=inside, other=-1) & _LABEL_MASK
        total = tl.zeros((ROWS,), dtype=tl.float32)
        for start in range(0, size, COLS):
            cols = start + tl.arange(0, COLS)
            other = tl.load(packed + cols, mask=cols < size, other=0) & _LABEL_MASK
            same = (label[:, None] == other[None, :]) & (cols[None, :] < size)
            same = same & inside[:, None]
            values = tl.load(k + rows[:, None] * size + cols[None, :], mask=same, other=0.0)
            total += tl.sum(values, axis=1)
        tl.store(own + item * size + rows, total, mask=inside)
        unset = tl.full((ROWS,), _largest(packed.dtype.element_ty), packed.dtype.element_ty)
        tl.store(following + item * size + rows, unset, mask=inside)


@triton.jit(do_not_specialize=["clusters"])
def _assign_kernel(
    k, norms, packed, following, own, done, size, clusters,
    UNIT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Distances of ROWS tokens to COLS centroids, into the minimum over all clusters."""
    item = tl.program_id(2).to(tl.int64)
    if tl.load(done + item) == 0:
        k += item * size * size
        packed += item * size
        own += item * size
        rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        cols = tl.program_id(1) * COLS + tl.arange(0, COLS)
        depth = tl.arange(0, DEPTH)
        product = tl.zeros((ROWS, COLS), dtype=tl.float32)
        # added up over the tokens at the end: a sum across threads in each step would hold it up
        counts = tl.zeros((DEPTH, COLS), dtype=tl.int32)
        withins = tl.zeros((DEPTH, COLS), dtype=tl.float32)
        for start in range(0, size, DEPTH):
            tokens = start + depth
            label = tl.load(packed + tokens, mask=tokens < size, other=0) & _LABEL_MASK
            label = tl.where(tokens < size, label, -1)
            sums = tl.load(own + tokens, mask=tokens < size, other=0.0)
            place = k + rows[:, None] * size + tokens[None, :]
            inside = (rows[:, None] < size) & (tokens[None, :] < size)
            values = tl.load(place, mask=inside, other=0.0)
            member = label[:, None] == cols[None, :]
            product = _plus_dot(product, values, member, True)
            counts += member.to(tl.int32)
            withins += tl.where(member, sums[:, None], 0.0)
        count = tl.sum(counts, axis=0).to(tl.float32)
        within = tl.sum(withins, axis=0)
        there = tl.maximum(count, 1.0)
        distance = (within / (there * there))[None, :] - 2.0 * (product / there[None, :])
        if UNIT:
            distance += 1.0
        else:
            distance += tl.load(norms + item * size + rows, mask=rows < size, other=1.0)[:, None]
        kind: tl.constexpr = packed.dtype.element_ty
        key = (_whole(distance, kind) << _LABEL_BITS) | cols[None, :]
        key = tl.where((count > 0)[None, :], key, _largest(kind))
        nearest = tl.min(key, axis=1)
        tl.atomic_min(following + item * size + rows, nearest, mask=rows < size, sem="relaxed")


@triton.jit(do_not_specialize=["clusters"])
def _empty_kernel(
    packed, following, done, missing, vacant, size, clusters,
    BLOCK: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """How many clusters are empty, and which; without any, whether the labels are at rest."""
    item = tl.program_id(0).to(tl.int64)
    count = 0
    if tl.load(done + item) == 0:
        at = tl.arange(0, BLOCK)
        inside = at < size
        key = tl.load(following + item * size + at, mask=inside, other=0)
        label = tl.where(inside, key & _LABEL_MASK, -1).to(tl.int32)
        bins = tl.arange(0, BINS)
        tokens = tl.histogram(tl.where(inside, label, BINS - 1), BINS)
        empty = (tokens == 0) & (bins < clusters)
        rank = tl.cumsum(empty.to(tl.int32), axis=0) - 1
        tl.store(vacant + item * clusters + rank, bins, mask=empty)
        count = tl.sum(empty.to(tl.int32), axis=0)
        if count == 0:
            before = tl.load(packed + item * size + at, mask=inside, other=0) & _LABEL_MASK
            changed = tl.sum(((before != label) & inside).to(tl.int32), axis=0)
            tl.store(done + item, (changed == 0).to(tl.int32))
    tl.store(missing + item, count)


@triton.jit
def _spare_kernel(packed, following, missing, size, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """The distances of tokens that are not the nearest of their cluster to `packed`, else -1."""
    item = tl.program_id(1).to(tl.int64)
    if tl.load(missing + item) > 0:
        packed += item * size
        following += item * size
        at = tl.arange(0, BLOCK)
        inside = at < size
        key = tl.load(following + at, mask=inside, other=0)
        rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        mine = tl.load(following + rows, mask=rows < size, other=0)
        same = ((key & _LABEL_MASK)[None, :] == (mine & _LABEL_MASK)[:, None]) & inside[None, :]
        own, far = (key >> _LABEL_BITS)[None, :], (mine >> _LABEL_BITS)[:, None]
        before = (own < far) | ((own == far) & (at[None, :] < rows[:, None]))
        spare = tl.sum((same & before).to(tl.int32), axis=1) > 0
        tl.store(packed + rows, tl.where(spare, mine >> _LABEL_BITS, -1), mask=rows < size)


@triton.jit(do_not_specialize=["clusters"])
def _move_kernel(
    packed, following, missing, vacant, size, clusters, BLOCK: tl.constexpr, ROWS: tl.constexpr
):
    """Give the empty clusters the spare tokens, the farthest first."""
    item = tl.program_id(1).to(tl.int64)
    count = tl.load(missing + item)
    if count > 0:
        packed += item * size
        at = tl.arange(0, BLOCK)
        inside = at < size
        spare = tl.load(packed + at, mask=inside, other=-1)
        rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        mine = tl.load(packed + rows, mask=rows < size, other=-1)
        before = (spare[None, :] > mine[:, None]) | (
            (spare[None, :] == mine[:, None]) & (at[None, :] < rows[:, None])
        )
        rank = tl.sum((before & inside[None, :]).to(tl.int32), axis=1)
        moves = (mine > 0) & (rank < count)
        cluster = tl.load(vacant + item * clusters + rank, mask=moves, other=0)
        tl.store(following + item * size + rows, cluster, mask=moves & (rows < size))


@triton.jit(do_not_specialize=["clusters"])
def _lengths_kernel(
    packed, own, counts, lengths, size, clusters, COLS: tl.constexpr, DEPTH: tl.constexpr
):
    """Tokens per cluster and squared lengths of the centroids."""
    item = tl.program_id(1).to(tl.int64)
    cols = tl.program_id(0) * COLS + tl.arange(0, COLS)
    members = tl.zeros((DEPTH, COLS), dtype=tl.int32)
    withins = tl.zeros((DEPTH, COLS), dtype=tl.float32)
    for start in range(0, size, DEPTH):
        tokens = start + tl.arange(0, DEPTH)
        label = tl.load(packed + item * size + tokens, mask=tokens < size, other=0) & _LABEL_MASK
        sums = tl.load(own + item * size + tokens, mask=tokens < size, other=0.0)
        member = (label[:, None] == cols[None, :]) & (tokens < size)[:, None]
        members += member.to(tl.int32)
        withins += tl.where(member, sums[:, None], 0.0)
    count = tl.sum(members, axis=0)
    within = tl.sum(withins, axis=0)
    there = tl.maximum(count, 1).to(tl.float32)
    inside = cols < clusters
    tl.store(counts + item * clusters + cols, count, mask=inside)
    tl.store(lengths + item * clusters + cols, within / (there * there), mask=inside)


@triton.jit(do_not_specialize=["clusters"])
def _finish_kernel(
    norms, packed, own, counts, lengths, labels, distances, size, clusters,
    UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Labels, and squared distances of the tokens to their own centroids."""
    item = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    label = tl.load(packed + item * size + at, mask=inside, other=0) & _LABEL_MASK
    count = tl.load(counts + item * clusters + label, mask=inside, other=1).to(tl.float32)
    length = tl.load(lengths + item * clusters + label, mask=inside, other=0.0)
    sums = tl.load(own + item * size + at, mask=inside, other=0.0)
    norm = 1.0 if UNIT else tl.load(norms + item * size + at, mask=inside, other=1.0)
    distance = tl.maximum(norm - 2.0 * sums / count + length, 0.0)
    tl.store(labels + item * size + at, label.to(tl.int64), mask=inside)
    tl.store(distances + item * size + at, distance, mask=inside)


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

    `matrix` (B, N, N) float32 has a diagonal of ones, or, if not `unit`, one of mean one, so that
    no entry exceeds N; `uniforms` (B or 1, M, trials) is float64.
    """
    items, size, _ = matrix.shape
    matrix, uniforms = matrix.contiguous(), uniforms.contiguous()
    norms = matrix if unit else matrix.diagonal(dim1=-2, dim2=-1).contiguous()
    options = {"dtype": torch.int32 if unit else torch.int64, "device": matrix.device}
    packed = torch.empty(items, size, **options)
    following = torch.empty(items, size, **options)
    done, missing = torch.zeros(2, items, dtype=torch.int32, device=matrix.device)
    vacant = torch.empty(items, n_clusters, dtype=torch.int32, device=matrix.device)
    counts = torch.empty(items, n_clusters, dtype=torch.int64, device=matrix.device)
    own = torch.empty(items, size, dtype=torch.float32, device=matrix.device)
    lengths = torch.empty(items, n_clusters, dtype=torch.float32, device=matrix.device)
    steps, trials = uniforms.shape[1:]
    block = triton.next_power_of_2(size)
    kind = torch.int32 if unit else torch.float32
    pairs = torch.empty(matrix.shape, dtype=kind, device=matrix.device)
    count = matrix.numel()
    _pairs_kernel[(triton.cdiv(count, 2048),)](
        matrix, norms, pairs, size, count, UNIT=unit, BLOCK=2048
    )
    _seed_kernel[(items,)](
        pairs,
        uniforms,
        packed,
        size,
        n_clusters,
        steps * trials if len(uniforms) > 1 else 0,
        UNIT=unit,
        TRIALS=trials,
        BLOCK=block,
        num_warps=8,
    )
    rows = (triton.cdiv(size, 16), items)
    tiles = (triton.cdiv(size, _TILE), triton.cdiv(n_clusters, 16), items)
    bins = 2 * triton.next_power_of_2(n_clusters)
    for iteration in range(n_iter):
        _own_kernel[rows](matrix, packed, following, own, done, size, ROWS=16, COLS=128)
        _assign_kernel[tiles](
            matrix,
            norms,
            packed,
            following,
            own,
            done,
            size,
            n_clusters,
            UNIT=unit,
            ROWS=_TILE,
            COLS=16,
            DEPTH=128,
        )
        if iteration % refill_every == 0 or iteration == n_iter - 1:
            _empty_kernel[(items,)](
                packed, following, done, missing, vacant, size, n_clusters, BLOCK=block, BINS=bins
            )
            _spare_kernel[rows](packed, following, missing, size, BLOCK=block, ROWS=16)
            _move_kernel[rows](
                packed, following, missing, vacant, size, n_clusters, BLOCK=block, ROWS=16
            )
        packed, following = following, packed
    # At rest both hold the same labels, so the last one written to serves in any case.
    done.zero_()
    _own_kernel[rows](matrix, packed, following, own, done, size, ROWS=16, COLS=128)
    _lengths_kernel[(triton.cdiv(n_clusters, 16), items)](
        packed, own, counts, lengths, size, n_clusters, COLS=16, DEPTH=128
    )
    labels = torch.empty(items, size, dtype=torch.int64, device=matrix.device)
    distances = torch.empty_like(own)
    _finish_kernel[(triton.cdiv(size, 256), items)](
        norms, packed, own, counts, lengths, labels, distances, size, n_clusters,
        UNIT=unit, BLOCK=256,
    )  # fmt: skip
    return labels, counts, distances
