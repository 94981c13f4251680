"""How fast captions are made, and how long for prepared images was waited."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass
class Throughput:
    """How fast a loop captions, and how long it waited for prepared images.

    `captions` counts an image once for each method; `seconds` are those of the loop, model loading
    and checks not included, and `waiting` those of them without a prepared batch to work on.
    """

    captions: int = 0
    seconds: float = 0.0
    waiting: float = 0.0

    def watch(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches, with the clock running."""
        begin = time.perf_counter() - self.seconds  # goes on behind what was watched before
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            now = time.perf_counter()
            self.waiting += now - before
            self.seconds = now - begin
            if batch is None:
                return
            yield batch
            self.seconds = time.perf_counter() - begin

    def entry(self) -> dict[str, float]:
        """As manifests note it."""
        return {
            "captions": self.captions,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.captions / max(self.seconds, 1e-9), 3),
            "waiting_share": round(self.waiting / max(self.seconds, 1e-9), 4),
        }

    @staticmethod
    def together(ranks: Sequence[Throughput]) -> Throughput:
        """Of several processes that work at once: as long as the slowest, waiting on average."""
        return Throughput(
            sum(rank.captions for rank in ranks),
            max(rank.seconds for rank in ranks),
            sum(rank.waiting for rank in ranks) / len(ranks),
        )

    def __str__(self) -> str:
        entry = self.entry()
        return (
            f"{self.captions} captions in {self.seconds:.1f} s: {entry['images_per_second']:.1f} "
            f"images/s, {entry['waiting_share']:.1%} of the time waiting for prepared images"
        )
