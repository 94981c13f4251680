"""Training scenes, drawn by worker processes while the model learns."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from .layout import SIZE
from .rendering import CAPTION_TOKENS, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_CHUNK = 128  # scenes that a worker draws at a time


class ScenePool:
    """Training scenes on the training device, drawn by worker processes in a fixed order.

    A step needs the scenes of its indices only, so learning starts as soon as the first batch is
    drawn, and what is learnt never depends on how fast the workers are.

    Attributes
    ----------
    images : (count, 224, 224, 3) uint8 on ``device``.
    codes : (count, 256) int16 on ``device``; see :func:`~.rendering.patch_codes`.
    tokens : (count, variants, 48) int16 on the CPU, padded with -1.
    seconds : spent waiting for the workers.
    """

    def __init__(
        self,
        count: int,
        tokenizer: PreTrainedTokenizerFast,
        *,
        variants: int = 8,
        device: str = "cpu",
        workers: int | None = None,
    ) -> None:
        self.count, self.seconds = count, 0.0
        self.images = torch.empty((count, SIZE, SIZE, 3), dtype=torch.uint8, device=device)
        self.codes = torch.empty((count, 256), dtype=torch.int16, device=device)
        self.tokens = torch.empty((count, variants, CAPTION_TOKENS), dtype=torch.int16)
        self._ready = 0
        self._error: BaseException | None = None
        self._change = threading.Condition()
        memory = Path("/dev/shm")
        roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4 * 2**30
        self._folder = tempfile.mkdtemp(prefix="scenes-", dir=memory if roomy else None)
        self._job = (variants, tokenizer.backend_tokenizer.to_str(), self._folder)
        self._workers = workers or max(1, _cores() - 1)
        threading.Thread(target=self._fill, daemon=True).start()

    def _fill(self) -> None:
        try:
            starts = deque(range(0, self.count, _CHUNK))
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(self._workers, spawn) as workers:
                waiting: deque = deque()
                while starts or waiting:
                    while starts and len(waiting) < 3 * self._workers:
                        start = starts.popleft()
                        count = min(_CHUNK, self.count - start)
                        waiting.append((start, workers.submit(render, start, count, *self._job)))
                    start, future = waiting.popleft()
                    self._take(start, *future.result())
        except BaseException as error:  # handed to the training thread
            with self._change:
                self._error = error
                self._change.notify_all()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _take(self, start: int, path: str, codes: np.ndarray, tokens: np.ndarray) -> None:
        end = start + len(codes)
        self.images[start:end] = torch.from_numpy(np.load(path))
        self.codes[start:end] = torch.from_numpy(codes)
        self.tokens[start:end] = torch.from_numpy(tokens)
        os.unlink(path)
        with self._change:
            self._ready = end
            self._change.notify_all()

    def wait(self, count: int) -> None:
        """Return once the first ``count`` scenes are there.

        Raises
        ------
        RuntimeError : a worker failed; the message says why.
        """
        began = time.perf_counter()
        with self._change:
            self._change.wait_for(lambda: self._ready >= count or self._error is not None)
        if self._error is not None:
            raise RuntimeError(f"drawing scenes failed: {self._error!r}") from self._error
        self.seconds += time.perf_counter() - began


def _cores() -> int:
    """Processor cores that this process may use; not every system can tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
