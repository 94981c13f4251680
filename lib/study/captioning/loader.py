"""Image files to prepared batches, ahead of time."""

from __future__ import annotations

import copy
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import torch
from torch import Tensor

from .images import load_image
from .record import Batch


def _ids(batch: Batch) -> tuple[int, ...]:
    return tuple(int(example.image_id) for example in batch)


class Loader:
    """Prepares batches in background threads, in order, a few batches ahead.

    Threads suffice: decoding, resizing and tensor work release the interpreter lock, and what a run
    waited all the same is noted with it (`Throughput`). Each thread has its own copy of the
    processor, because fast tokenizers cannot be shared while they pad. For a GPU the batches lie in
    pinned memory. `start` prepares the first ones before anybody asks, while a model loads.

    Parameters
    ----------
    processor : of the model.
    prompt : the whole prompt, placeholder included.
    device : where the batches will go.
    workers : threads; by default up to 4.
    fill : rows that a smaller batch is filled up to, with copies of its last image.
    """

    def __init__(
        self,
        processor: Any,
        prompt: str,
        device: torch.device,
        *,
        workers: int | None = None,
        fill: int = 0,
    ) -> None:
        self.fill = fill
        self.processor, self.prompt, self.pin = processor, prompt, device.type == "cuda"
        self.nested = hasattr(processor, "image_seq_len")  # SmolVLM wants each prompt's own list
        workers = workers or min(4, os.cpu_count() or 1)
        self.ahead = workers + 1
        # a new thread's device is the first one: pinning there would take a context on it
        own = {"initializer": torch.cuda.set_device, "initargs": (device,)} if self.pin else {}
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="images", **own)
        self.local, self.lock = threading.local(), threading.Lock()
        self.started: dict[tuple[int, ...], Future] = {}

    def prepare(self, batch: Batch) -> dict[str, Tensor]:
        """What the model takes for a batch, on the CPU."""
        images = [load_image(example.path) for example in batch]
        images += images[-1:] * (self.fill - len(images))
        if not hasattr(self.local, "processor"):
            with self.lock:
                self.local.processor = copy.deepcopy(self.processor)
        inputs = self.local.processor(
            images=[[one] for one in images] if self.nested else images,
            text=[self.prompt] * len(images),
            padding=True,
            padding_side="left",  # so that every row ends where generation starts
            return_tensors="pt",
        )
        return {k: v.pin_memory() if self.pin else v for k, v in inputs.items()}

    def start(self, batches: Sequence[Batch]) -> None:
        """Begin with the first batches; those nobody asks for are dropped.

        The very first is done before the others are begun: it is what a loop waits for.
        """
        first: Future | None = None
        for batch in batches[: self.ahead]:
            future = self.pool.submit(self._prepare_after, first, batch)
            self.started[_ids(batch)], first = future, first or future

    def _prepare_after(self, first: Future | None, batch: Batch) -> dict[str, Tensor]:
        if first is not None:
            wait([first])
        return self.prepare(batch)

    def __call__(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
        """Each batch with its inputs. Raises `ImageError` for an image that cannot be read."""
        started, self.started = self.started, {}
        waiting: deque[tuple[Batch, Future]] = deque()
        todo = iter(batches)
        while True:
            while len(waiting) < self.ahead and (batch := next(todo, None)) is not None:
                future = started.pop(_ids(batch), None)
                waiting.append((batch, future or self.pool.submit(self.prepare, batch)))
            for unasked in started.values():
                unasked.cancel()
            started.clear()
            if not waiting:
                return
            batch, future = waiting.popleft()
            yield batch, future.result()

    def close(self) -> None:
        """End the threads; a batch in preparation is finished first."""
        self.pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
