"""Taking the time: on a GPU with events on the device, elsewhere with the clock."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import quantile_test

from ...pruning.engine.graphs import graphs
from ..records import processor


@dataclass(frozen=True)
class Timing:
    """Seconds: the median of `repeats` runs, with the quartiles around it."""

    median: float
    low: float
    high: float
    repeats: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75])
        return cls(float(median), float(low), float(high), len(seconds))


class Stopwatch:
    """Seconds of device work between marks: events on a GPU, the clock elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = torch.device(device).type == "cuda"
        self.spans: list[tuple[Any, Any]] = []

    def __enter__(self) -> Stopwatch:
        self._start = self.mark()
        return self

    def __exit__(self, *exception: object) -> None:
        self.spans.append((self._start, self.mark()))

    def mark(self) -> Any:
        """This moment, in the order of the device's work."""
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: Any, end: Any) -> float:
        """Seconds from one mark to another; waits for the device."""
        if not self.cuda:
            return end - start
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3

    def seconds(self) -> list[float]:
        """One number per span; waits for the device."""
        return [self.between(start, end) for start, end in self.spans]


def measure(
    function: Callable[[], Any], *, device: torch.device | str, warmup: int = 2, repeats: int = 5
) -> Timing:
    """Median time of a call after `warmup` calls; on a GPU the device is drained in between."""
    for _ in range(warmup):
        function()
    watch = Stopwatch(torch.device(device))
    for _ in range(repeats):
        once(function, watch)
    return Timing.of(watch.seconds())


def once(function: Callable[[], Any], watch: Stopwatch) -> None:
    """One call under a stopwatch, the device drained before it and with it."""
    if watch.cuda:
        torch.cuda.synchronize()
    with watch:
        function()
        if watch.cuda:  # launches of a slow host count as well: the user waits for them
            torch.cuda.synchronize()


def free_peak(device: torch.device) -> None:
    """Forget the memory at the peak so far, and give back what is not in use.

    What other methods captured to choose with goes, too: the second call captures again.
    """
    graphs.clear()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_bytes(device: torch.device) -> int | None:
    """Memory of a GPU at its peak since `free_peak`, None elsewhere."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else None


def machine() -> dict[str, Any]:
    """The hardware and versions that a time belongs to; the threads are those of this moment."""
    gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if gpu else processor(),
        "threads": None if gpu else torch.get_num_threads(),
        "torch": torch.__version__.split("+")[0],
        "python": platform.python_version(),
    }


def paired_ratio(seconds: Sequence[float], baseline: Sequence[float]) -> dict[str, Any]:
    """The median of the rounds' ratios, the bounds of its 95 % interval and how many there were.

    baseline: of the same rounds, later ones may follow. The bounds are None for fewer than six.

    >>> paired_ratio([1.0, 3.0], [2.0, 2.0])
    {'median': 1.0, 'low': None, 'high': None, 'rounds': 2}
    """
    ratios = [own / other for own, other in zip(seconds, baseline)]
    low, high = ratio_interval(ratios) or (None, None)
    return {"median": Timing.of(ratios).median, "low": low, "high": high, "rounds": len(ratios)}


def ratio_interval(ratios: Sequence[float], *, confidence: float = 0.95) -> list[float] | None:
    """Bounds of the median of paired ratios, from their order alone; None for too few of them.

    The distribution-free interval of `scipy.stats.quantile_test`: it assumes rounds that do not
    depend on each other, and nothing about how times are spread.
    """
    interval = quantile_test(ratios, q=0, p=0.5).confidence_interval(confidence)
    bounds = [float(interval.low), float(interval.high)]
    return bounds if np.isfinite(bounds).all() else None
