"""Training scenes, drawn by worker processes while the model learns.

Apart from ``lib.study.training`` so that a worker imports neither torch nor transformers.
"""

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

from .scene_captions import COLOURS, SHAPES, SIZES
from .scenes import SIZE, Scene, captions, draw, patch_labels, sample_scene, scene_seed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CAPTION_TOKENS = 48  # room for a caption, its end included
_CHUNK = 128  # scenes that a worker draws at a time


def patch_codes(scene: Scene) -> np.ndarray:
    """Shape, colour and size that each patch shows, in one number; 0 is the background.

    Returns
    -------
    (16, 16) int16: ``((shape + 1) * 16 + colour + 1) * 16 + size + 1``.
    """
    table = [0]
    for item in scene.objects:
        shape, colour = list(SHAPES).index(item.shape), list(COLOURS).index(item.colour)
        table.append(((shape + 1) * 16 + colour + 1) * 16 + list(SIZES).index(item.size) + 1)
    return np.array(table, np.int16)[patch_labels(scene)]


def _render(
    start: int, count: int, variants: int, tokenizer_json: str, folder: str
) -> tuple[str, np.ndarray, np.ndarray]:
    """Draw training scenes start … start + count (runs in a worker).

    Pictures go through a file in memory, the small arrays come back as they are.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    end = tokenizer.token_to_id("</s>")
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    codes = np.zeros((count, 256), np.int16)
    tokens = np.full((count, variants, CAPTION_TOKENS), -1, np.int16)
    for i in range(count):
        scene = sample_scene(scene_seed("train", start + i))
        images[i] = draw(scene)
        codes[i] = patch_codes(scene).reshape(-1)
        for j, text in enumerate(captions(scene, variants)):
            ids = tokenizer.encode(" " + text, add_special_tokens=False).ids
            if len(ids) >= CAPTION_TOKENS:
                raise ValueError(
                    f"a caption of {len(ids)} tokens exceeds {CAPTION_TOKENS - 1}: {text!r}"
                )
            tokens[i, j, : len(ids) + 1] = [*ids, end]
    path = os.path.join(folder, f"{start}.npy")
    np.save(path, images)
    return path, codes, tokens


class ScenePool:
    """Training scenes on the training device, drawn by worker processes in a fixed order.

    A step needs the scenes of its indices only, so learning starts as soon as the first batch is
    drawn, and what is learnt never depends on how fast the workers are.

    Attributes
    ----------
    images : (count, 224, 224, 3) uint8 on ``device``.
    codes : (count, 256) int16 on ``device``; see :func:`patch_codes`.
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
        import torch

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
        self._workers = workers or max(1, len(os.sched_getaffinity(0)) - 1)
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
                        waiting.append((start, workers.submit(_render, start, count, *self._job)))
                    start, future = waiting.popleft()
                    self._take(start, *future.result())
        except BaseException as error:  # handed to the training thread
            with self._change:
                self._error = error
                self._change.notify_all()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _take(self, start: int, path: str, codes: np.ndarray, tokens: np.ndarray) -> None:
        import torch

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
