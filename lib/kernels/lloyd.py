"""Lloyd's iterations in one launch, whose programs stay on the device until all tokens rest.

A model at work leaves little room for a launch, and two launches an iteration would wait for it
every time. The programs of an item meet twice in every iteration: once the sums over the clusters
are there, and once all tokens are assigned. That takes all of them at work at once, which a
cooperative launch guarantees.

Every program adds up its own tokens' entries over each cluster, as whole numbers, so that a token
that moves is taken off one sum and put on another: what stays costs nothing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import common
from .common import _GRID, _round

_LABEL_BITS = tl.constexpr(12)
_LABEL_MASK = tl.constexpr(4095)
_NOWHERE = tl.constexpr(4096)  # the label of a token that is in no sum yet
#: of a token and of each of two labels in what is noted of a move
_MOVE_BITS = tl.constexpr(16)
_MOVE_MASK = tl.constexpr(65535)
#: sums are whole numbers of 2^-32 of the mean squared length: none exceeds N^2 <= 2^28 of it, and
#: they know no order
_PARTS = tl.constexpr(4294967296.0)
#: tokens of a tile, clusters beside them, and tokens that move, at once
_ROWS, _COLS, _DEPTH = 32, 128, 64
#: labels read at once
_BLOCK = 4096
#: warps of a program, registers of a thread, and bytes that a program's threads share
_WARPS, _REGISTERS, _SHARED = 8, 128, 32 * 1024

# Squared distances are whole numbers of 1/65536 of the mean squared length (lib.clustering's grid).
# An assignment is one integer, distance << 12 | cluster: the minimum over clusters is the nearest
# one, of equals the first. For unit tokens it fits int32; between tokens as they are a distance can
# be 4 N times that mean, which takes int64.


@triton.jit
def _whole(distance, kind: tl.constexpr):
    """Distances on the grid, as whole numbers; float32 from 2^22 on steps by halves at least."""
    steps = tl.maximum(distance * _GRID, 0.0)
    return tl.where(steps < 4194304.0, _round(steps), steps).to(kind)


@triton.jit
def _largest(kind: tl.constexpr):
    return 2147483647 if kind == tl.int32 else 9223372036854775807


@triton.jit
def _meet(counter, before, programs):
    """Wait for all programs of the item, to see what they wrote; how many arrivals there were."""
    tl.debug_barrier()  # what a program's other threads have written comes before its arrival
    arrived = tl.atomic_add(counter, 1, sem="acq_rel") + 1
    while arrived < before + programs:
        arrived = tl.atomic_add(counter, 0, sem="acquire")
    return before + programs


@triton.jit
def _shared(place, mask):
    """Loads of what other programs write: never from the core's own cache, nor, in a loop, by
    copies made ahead, which ask that cache: such a loop has one stage."""
    return tl.load(place, mask=mask, other=0, volatile=True)


@triton.jit
def _labels(now, mine, at, size, BINS: tl.constexpr):
    """Of some tokens the labels before, those now, which of them differ, and how many tokens every
    cluster has (the last of the bins is of what is no token)."""
    inside = at < size
    label = (_shared(now + at, inside) & _LABEL_MASK).to(tl.int32)
    before = tl.load(mine + at, mask=inside, other=0)
    found = tl.histogram(tl.where(inside, label, BINS - 1), BINS)
    return before, label, inside & (before != label), found


@triton.jit
def _note_moves(now, mine, moves, size, BLOCK: tl.constexpr, BINS: tl.constexpr):
    """Read all labels and list the tokens that are elsewhere than in `mine`, which follows; how
    many there are, and how many tokens every cluster has."""
    total = tl.zeros((BINS,), dtype=tl.int32)
    count = 0
    for start in tl.range(0, size, BLOCK, num_stages=1):
        at = start + tl.arange(0, BLOCK)
        before, label, moved, found = _labels(now, mine, at, size, BINS)
        place = count + tl.cumsum(moved.to(tl.int32), axis=0) - 1
        both = (before.to(tl.int64) << (2 * _MOVE_BITS)) | (label.to(tl.int64) << _MOVE_BITS)
        tl.store(moves + place, both | at, mask=moved)
        tl.debug_barrier()  # all have read what is overwritten here
        tl.store(mine + at, label, mask=at < size)
        count += tl.sum(moved.to(tl.int32), axis=0)
        total += found
    return count, total


@triton.jit
def _look(then, mine, size, BLOCK: tl.constexpr, BINS: tl.constexpr):
    """How many labels differ from those in `mine`, and how many tokens every cluster has."""
    total = tl.zeros((BINS,), dtype=tl.int32)
    count = 0
    for start in tl.range(0, size, BLOCK, num_stages=1):
        at = start + tl.arange(0, BLOCK)
        _, _, moved, found = _labels(then, mine, at, size, BINS)
        count += tl.sum(moved.to(tl.int32), axis=0)
        total += found
    return count, total


@triton.jit
def _add_up(k, moves, moved, sums, rows, size, DEPTH: tl.constexpr):
    """Take the rows' entries at tokens that moved off the sums over one cluster, to another."""
    for start in range(0, moved, DEPTH):
        number = start + tl.arange(0, DEPTH)
        move = tl.load(moves + number, mask=number < moved, other=0)
        token, to = move & _MOVE_MASK, (move >> _MOVE_BITS) & _MOVE_MASK
        source = move >> (2 * _MOVE_BITS)
        inside = (number < moved)[:, None] & (rows < size)[None, :]
        value = tl.load(k + token[:, None] * size + rows[None, :], mask=inside, other=0.0)
        part = (value * _PARTS).to(tl.int64)  # a power of two: exact, but for what is below 2^-32
        tl.atomic_add(sums + to[:, None] * size + rows[None, :], part, mask=inside, sem="relaxed")
        place = sums + source[:, None] * size + rows[None, :]
        tl.atomic_add(place, -part, mask=inside & (source < _NOWHERE)[:, None], sem="relaxed")


@triton.jit
def _sum_at(sums, label, rows, size, inside):
    """The rows' sums over clusters, past the core's own cache, which atomics do not reach."""
    return tl.load(sums + label * size + rows, mask=inside, other=0, cache_modifier=".cg")


@triton.jit
def _add_lengths(mine, sums, withins, rows, size):
    """Add to the squared lengths of the clusters' sums, of which every row is a part."""
    here = rows < size
    label = tl.load(mine + rows, mask=here, other=0)
    own = _sum_at(sums, label, rows, size, here)
    tl.atomic_add(withins + label, own, mask=here, sem="relaxed")


@triton.jit
def _lengths(withins, counts, cols, clusters):
    """Tokens per cluster and squared lengths of the centroids."""
    known = cols < clusters
    count = tl.load(counts + cols, mask=known, other=0).to(tl.float32)
    there = tl.maximum(count, 1.0)
    within = _shared(withins + cols, known).to(tl.float32) / _PARTS
    return count, within / (there * there)


@triton.jit
def _assign(
    norms, sums, withins, counts, following, rows, size, clusters,
    UNIT: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """The nearest centroids that are there."""
    here = rows < size
    kind: tl.constexpr = following.dtype.element_ty
    nearest = tl.full(rows.shape, _largest(kind), kind)
    norm = 1.0 if UNIT else tl.load(norms + rows, mask=here, other=1.0)[None, :]
    for first in tl.range(0, clusters, COLS, num_stages=1):
        cols = first + tl.arange(0, COLS)
        count, length = _lengths(withins, counts, cols, clusters)
        inside = (cols < clusters)[:, None] & here[None, :]
        product = _sum_at(sums, cols[:, None], rows[None, :], size, inside).to(tl.float32) / _PARTS
        distance = length[:, None] - 2.0 * (product / tl.maximum(count, 1.0)[:, None])
        key = (_whole(distance + norm, kind) << _LABEL_BITS) | cols[:, None]
        key = tl.where((count > 0)[:, None], key, _largest(kind))
        nearest = tl.minimum(nearest, tl.min(key, axis=0))
    tl.store(following + rows, nearest, mask=here)


@triton.jit
def _before(place, mine, rows, size, SAME: tl.constexpr, DEPTH: tl.constexpr):
    """How many come before each of the rows: the smaller ones of the SAME cluster, or the larger
    ones of all; of equals the first."""
    count = tl.zeros(rows.shape, dtype=tl.int32)
    for start in tl.range(0, size, DEPTH, num_stages=1):
        tokens = start + tl.arange(0, DEPTH)
        other = _shared(place + tokens, tokens < size)[:, None]
        first = (other < mine[None, :]) if SAME else (other > mine[None, :])
        first = first | ((other == mine[None, :]) & (tokens[:, None] < rows[None, :]))
        if SAME:
            first = first & (((other ^ mine[None, :]) & _LABEL_MASK) == 0)
        count += tl.sum((first & (tokens < size)[:, None]).to(tl.int32), axis=0)
    return count


@triton.jit
def _spare(following, spare, rows, size, DEPTH: tl.constexpr):
    """The distances of tokens that are not the nearest of their cluster, else -1."""
    here = rows < size
    mine = _shared(following + rows, here)
    nearer = _before(following, mine, rows, size, True, DEPTH)
    tl.store(spare + rows, tl.where(nearer > 0, mine >> _LABEL_BITS, -1), mask=here)


@triton.jit
def _move(following, spare, vacant, missing, rows, size, DEPTH: tl.constexpr):
    """Give the empty clusters the spare tokens, the farthest first."""
    here = rows < size
    mine = _shared(spare + rows, here)
    rank = _before(spare, mine, rows, size, False, DEPTH)
    moves = here & (mine > 0) & (rank < missing)
    cluster = tl.load(vacant + rank, mask=moves, other=0)
    tl.store(following + rows, cluster.to(mine.dtype), mask=moves)


@triton.jit
def _finish(
    norms, sums, withins, counts, mine, labels, distances, rows, size, clusters, UNIT: tl.constexpr
):  # fmt: skip
    """Labels, and squared distances of the rows to their own centroids."""
    here = rows < size
    label = tl.load(mine + rows, mask=here, other=0)
    count, length = _lengths(withins, counts, label, clusters)
    own = _sum_at(sums, label, rows, size, here).to(tl.float32) / _PARTS
    norm = 1.0 if UNIT else tl.load(norms + rows, mask=here, other=1.0)
    distance = tl.maximum(norm - 2.0 * own / tl.maximum(count, 1.0) + length, 0.0)
    tl.store(labels + rows, label.to(tl.int64), mask=here)
    tl.store(distances + rows, distance, mask=here)


@triton.jit(do_not_specialize=["items", "clusters", "n_iter", "refill_every"])
def _lloyd_kernel(
    k, norms, keys, sums, withins, meetings, own, moves, vacant, labels, counts, distances,
    items, size, clusters, n_iter, refill_every,
    UNIT: tl.constexpr, BLOCK: tl.constexpr, BINS: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Every `num_programs(1)`-th item, from the assignments in keys (items, 2, size).

    sums (items, clusters, size), withins (items, n_iter + 1, clusters) and meetings (items,) are
    zero; own and moves (programs of all items at work, size); vacant and counts (items, clusters),
    into which every program of an item writes the same.
    """
    bins = tl.arange(0, BINS)
    first, tiles, programs = tl.program_id(0), tl.cdiv(size, ROWS), tl.num_programs(0)
    work = (tl.program_id(1) * programs + first) * size
    mine = own + work
    moving = moves + work
    item = tl.program_id(1).to(tl.int64)
    while item < items:
        matrix = k + item * size * size
        sum_of = sums + item * clusters * size
        norm = norms + item * size
        empty_of = vacant + item * clusters
        count_of = counts + item * clusters
        within = withins + item * (n_iter + 1) * clusters
        now = keys + item * 2 * size
        then = now + size
        for start in range(0, size, BLOCK):
            at = start + tl.arange(0, BLOCK)
            tl.store(mine + at, _NOWHERE, mask=at < size)
        tl.debug_barrier()
        step = 0
        met = 0
        going = step <= n_iter
        while going:
            moved, found = _note_moves(now, mine, moving, size, BLOCK, BINS)
            tl.store(count_of + bins, found.to(tl.int64), mask=bins < clusters)
            tl.debug_barrier()
            for tile in range(first, tiles, programs):
                rows = tile * ROWS + tl.arange(0, ROWS)
                _add_up(matrix, moving, moved, sum_of, rows, size, DEPTH)
            tl.debug_barrier()
            for tile in range(first, tiles, programs):
                _add_lengths(mine, sum_of, within, tile * ROWS + tl.arange(0, ROWS), size)
            met = _meet(meetings + item, met, programs)
            going = step < n_iter
            if going:
                for tile in range(first, tiles, programs):
                    rows = tile * ROWS + tl.arange(0, ROWS)
                    _assign(norm, sum_of, within, count_of, then, rows, size, clusters, UNIT, COLS)
                met = _meet(meetings + item, met, programs)
                changed, found = _look(then, mine, size, BLOCK, BINS)
                empty = (found == 0) & (bins < clusters)
                missing = tl.sum(empty.to(tl.int32), axis=0)
                if (missing > 0) & ((step % refill_every == 0) | (step == n_iter - 1)):
                    rank = tl.cumsum(empty.to(tl.int32), axis=0) - 1
                    tl.store(empty_of + rank, bins, mask=empty)
                    for tile in range(first, tiles, programs):
                        _spare(then, now, tile * ROWS + tl.arange(0, ROWS), size, DEPTH)
                    met = _meet(meetings + item, met, programs)
                    for tile in range(first, tiles, programs):
                        rows = tile * ROWS + tl.arange(0, ROWS)
                        _move(then, now, empty_of, missing, rows, size, DEPTH)
                    met = _meet(meetings + item, met, programs)
                going = (missing > 0) | (changed > 0)  # else nothing that follows changes
                if going:
                    within += clusters
                    now, then = then, now
                    step += 1
        for tile in range(first, tiles, programs):
            rows = tile * ROWS + tl.arange(0, ROWS)
            _finish(
                norm, sum_of, within, count_of, mine, labels + item * size,
                distances + item * size, rows, size, clusters, UNIT,
            )  # fmt: skip
        tl.debug_barrier()  # what is the program's own serves the next item
        item += tl.num_programs(1)


def lloyd(
    matrix: Tensor,
    norms: Tensor,
    keys: Tensor,
    n_clusters: int,
    *,
    n_iter: int,
    refill_every: int,
    unit: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Labels (B, N) int64, counts (B, M) int64 and squared distances (B, N) after the iterations.

    keys (B, 2, N) holds the first assignments in keys[:, 0], and is overwritten.
    """
    items, size, _ = matrix.shape
    room = max(1, common._room(_WARPS, _REGISTERS, _SHARED, matrix.device))
    programs = max(1, min(triton.cdiv(size, _ROWS), room // items))
    together = min(items, room // programs)
    options = {"device": matrix.device}
    parts = [items * n_clusters * size, items * (n_iter + 1) * n_clusters, items]
    parts = [part + part % 2 for part in parts]  # each of them aligned to 16 bytes
    zeros = torch.zeros(sum(parts), dtype=torch.int64, **options)
    sums, withins, meetings = zeros.split(parts)
    own = torch.empty(together, programs, size, dtype=torch.int32, **options)
    moves = torch.empty(together, programs, size, dtype=torch.int64, **options)
    vacant = torch.empty(items, n_clusters, dtype=torch.int32, **options)
    labels = torch.empty(items, size, dtype=torch.int64, **options)
    counts = torch.empty(items, n_clusters, dtype=torch.int64, **options)
    distances = torch.empty(items, size, dtype=torch.float32, **options)
    columns = triton.next_power_of_2(n_clusters)
    with common._at_once(matrix.device):
        _lloyd_kernel[(programs, together)](
            matrix, norms, keys, sums, withins, meetings, own, moves, vacant,
            labels, counts, distances, items, size, n_clusters, n_iter, refill_every,
            UNIT=unit, BLOCK=min(triton.next_power_of_2(size), _BLOCK), BINS=2 * columns,
            ROWS=_ROWS, COLS=max(16, min(_COLS, columns)), DEPTH=_DEPTH,
            num_warps=_WARPS, maxnreg=_REGISTERS, launch_cooperative_grid=True,
        )  # fmt: skip
    return labels, counts, distances
