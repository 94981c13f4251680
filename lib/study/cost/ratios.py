"""Speed of the scores, the clustering and pruned captioning, as ratios within one run on a CPU.

    python -m lib bench

Prints a table; that of one run is kept in data/results/embedded/bench.json. Medians of interleaved
repetitions; the naive leave-one-out is timed on evenly spread tokens and scaled to all N, since
every token costs the same: one eigen-decomposition of an (N-1) x (N-1) matrix. Captions are those
of `lib.study.captioning.caption` by the embedded model on its own scenes, from the image files to
the text, in batches on two threads.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from ...clustering import kmeans
from ...entropy import gram, leave_one_out
from ...pruning import create
from .. import models
from ..captioning import caption
from ..data import coco, scenes
from ..files import write_json
from .timing import machine

NAIVE_TOKENS = 48  # timed per size; all of them would take minutes
CAPTIONS = 64  # scenes


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _tokens(size: int, width: int, dtype: torch.dtype) -> Tensor:
    """Photo-like tokens: a few themes, and noise that grows from token to token."""
    generator = torch.Generator().manual_seed(0)
    themes = torch.randn(8, width, generator=generator, dtype=dtype)
    member = torch.randint(0, 8, (size,), generator=generator)
    noise = torch.randn(size, width, generator=generator, dtype=dtype)
    return themes[member] + torch.linspace(0.2, 1.5, size, dtype=dtype).unsqueeze(-1) * noise


def _entropy(matrix: Tensor) -> Tensor:
    p = torch.linalg.eigvalsh(matrix / matrix.trace()).clamp_min(0)
    return -torch.special.xlogy(p, p).sum()


def leave_one_out_ratio(size: int, *, repeats: int = 5) -> tuple[float, float, float]:
    """Seconds of naive and of exact for all N tokens, and their largest difference in S."""
    matrix = gram(_tokens(size, 256, torch.float64))
    index = torch.arange(size)
    sample = torch.linspace(0, size - 1, NAIVE_TOKENS).long().tolist()
    scores = leave_one_out(matrix, gram=True)  # warm-up
    full = _entropy(matrix)
    naive, exact, error = [], [], 0.0
    for position, i in enumerate(sample):
        keep = index[index != i]
        start = time.perf_counter()
        score = full - _entropy(matrix[keep][:, keep])
        naive.append(time.perf_counter() - start)
        error = max(error, abs(score.item() - scores[i].item()))
        if position % (NAIVE_TOKENS // repeats) == 0:
            exact.append(_seconds(lambda: leave_one_out(matrix, gram=True)))
    return size * statistics.median(naive), statistics.median(exact), error


def kmeans_ratio(size: int, width: int, n_clusters: int, *, repeats: int = 5) -> tuple[float, ...]:
    """Seconds of scikit-learn (n_init=1) and of ours, and the mean ratio of the inertias."""
    tokens = torch.nn.functional.normalize(_tokens(size, width, torch.float32), dim=-1)
    array = tokens.numpy()
    theirs, ours, ratios = [], [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(-1, repeats):  # -1 warms up
            state = max(seed, 0)
            estimator = KMeans(n_clusters, n_init=1, random_state=state)
            their_time = _seconds(lambda e=estimator: e.fit(array))
            our_time = _seconds(lambda s=state: kmeans(tokens, n_clusters, random_state=s))
            if seed >= 0:
                theirs.append(their_time)
                ours.append(our_time)
                inertia = kmeans(tokens, n_clusters, random_state=state).inertia.item()
                ratios.append(inertia / estimator.inertia_)
    return statistics.median(theirs), statistics.median(ours), statistics.mean(ratios)


def captioning_ratio(
    loaded: models.Loaded,
    examples: Sequence[Any],
    *,
    keep: float = 0.5,
    batch_size: int = 16,
    threads: int = 2,
    repeats: int = 4,
) -> tuple[float, float, float]:
    """Seconds to caption `examples` unpruned and with Entropy-Prune, and the median ratio.

    The two take turns, one batch first as a warm-up; the ratio is that of neighbouring runs, so
    that a machine that slows down does not enter it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:

        def seconds(pruner: Any, some: Sequence[Any]) -> float:
            options = {"batch_size": batch_size, "progress": False}
            return _seconds(lambda: caption(*loaded[:2], some, pruner=pruner, **options))

        pruner = create("entropy", keep=keep)
        for method in (None, pruner):
            seconds(method, examples[:batch_size])
        pairs = [(seconds(None, examples), seconds(pruner, examples)) for _ in range(repeats)]
    finally:
        torch.set_num_threads(before)
    full, pruned = (statistics.median(column) for column in zip(*pairs))
    return full, pruned, statistics.median(a / b for a, b in pairs)


def rows() -> Iterator[dict[str, Any]]:
    """Every ratio as it is measured: seconds of both, the ratio, what was asked, a remark."""

    def row(what: str, plain: float, ours: float, asked: float, remark: str, **more: float) -> dict:
        values = {"what": what, "plain": plain, "ours": ours, "ratio": plain / ours}
        return values | {"asked": asked, "remark": remark} | more

    for size, asked in ((256, 50), (576, 150)):
        naive, exact, error = leave_one_out_ratio(size)
        name = f"leave-one-out, N={size}, float64"
        yield row(name, naive, exact, asked, f"|dS| <= {error:.0e}")
    theirs, ours, inertia = kmeans_ratio(576, 4096, 32)
    yield row("k-means, N=576, D=4096, M=32", theirs, ours, 3, f"inertia ratio {inertia:.3f}")
    # the first of the split: no others need to be drawn
    listing = scenes.ensure_scenes("test", limit=CAPTIONS)
    examples = coco.read_karpathy(listing, "test")[:CAPTIONS]
    full, pruned, ratio = captioning_ratio(models.load("embedded", device="cpu"), examples)
    each = (full / len(examples), pruned / len(examples))
    remark = f"{len(examples)} scenes, two threads"
    yield row("a caption, 50 % kept, batch 16", *each, 1.15, remark, ratio=ratio)


def report(record: Path | None = None) -> None:
    """Print every ratio beside what the project asks for; `record` keeps them as JSON."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, CPU, one run")
    header = f"{'what':<34}{'plain':>12}{'ours':>12}{'ratio':>9}{'asked':>8}   remark"
    print(header + "\n" + "-" * len(header))
    measured = []
    for row in rows():
        measured.append(row)
        print(
            f"{row['what']:<34}{1e3 * row['plain']:>9.1f} ms{1e3 * row['ours']:>9.1f} ms"
            f"{row['ratio']:>8.{0 if row['ratio'] > 20 else 2}f}x{row['asked']:>7}x"
            f"   {row['remark']}",
            flush=True,
        )
    print(
        f"The naive scores are timed on {NAIVE_TOKENS} of the N tokens and scaled; "
        "our k-means includes the Gram matrix, scikit-learn's has n_init=1; "
        "plain captions are unpruned."
    )
    if record:
        write_json(record, {"machine": machine(), "rows": measured})
