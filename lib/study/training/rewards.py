"""The rewards of sampled captions, computed by processes while the GPU waits."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from .cider import END, CiderReward, words


class Rewards:
    """Score samples against the human captions of their photographs, in so many processes.

    Parameters
    ----------
    captions : human captions of each photograph.
    tokenizer : whose ids the samples are.

    A context manager: the processes end with the block.
    """

    def __init__(
        self,
        captions: Sequence[Sequence[str]],
        tokenizer: PreTrainedTokenizerBase,
        *,
        workers: int = 8,
    ) -> None:
        references = [[[*words(text), END] for text in each] for each in captions]
        self.tokenizer, self.workers = tokenizer, workers
        self._pool = ProcessPoolExecutor(workers, initializer=_prepare, initargs=(references,))

    def __call__(
        self, images: Sequence[int], said: torch.Tensor
    ) -> tuple[list[list[list[int]]], np.ndarray]:
        """Of samples (B, S, T): token ids cut behind the end, and `CiderReward.many`, (B, S).

        images : the photograph's number of each row.
        """
        end, (size, samples, _) = self.tokenizer.eos_token_id, said.shape
        ids = [[_cut(row, end) for row in each] for each in said.tolist()]
        flat = [row for each in ids for row in each]
        texts = self.tokenizer.batch_decode(flat, skip_special_tokens=True)
        tokens = [[*words(t), *([END] if row[-1] == end else [])] for t, row in zip(texts, flat)]
        tokens = [tokens[i * samples : (i + 1) * samples] for i in range(size)]
        bounds = np.linspace(0, size, self.workers + 1).astype(int)
        jobs = [
            self._pool.submit(_reward_part, images[a:b], tokens[a:b])
            for a, b in pairwise(bounds)
            if b > a
        ]
        return ids, np.concatenate([job.result() for job in jobs])

    def __enter__(self) -> Rewards:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown()


_reward: CiderReward | None = None  # of a process


def _prepare(references: list[list[list[str]]]) -> None:
    global _reward
    _reward = CiderReward(references)


def _reward_part(images: Sequence[int], captions: list[list[list[str]]]) -> np.ndarray:
    return _reward.many(images, captions)


def _cut(row: list[int], end: int) -> list[int]:
    return row[: row.index(end) + 1] if end in row else row
