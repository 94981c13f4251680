"""CIDEr-D as a reward: references prepared once, sampled captions scored by the thousand.

The definition is Vedantam et al.'s (arXiv:1411.5726) as pycocoevalcap computes it (a test compares
the two), with document frequencies of the training captions and with the caption's end counted as
a word, so that a caption is not rewarded for stopping in mid-sentence.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

END = "</s>"
_WORDS = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")


def words(caption: str) -> list[str]:
    """Lower-case words without punctuation."""
    return _WORDS.findall(caption.lower())


def _grams(tokens: Sequence[str], n: int) -> Counter:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


class CiderReward:
    """Score captions against the references of their image.

    Parameters
    ----------
    references : tokenised captions of each image; document frequencies are taken from them.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        counted = [
            [[_grams(tokens, n) for n in range(1, 5)] for tokens in each] for each in references
        ]
        self.frequency = Counter(
            gram
            for each in counted
            for gram in {g for caption in each for grams in caption for g in grams}
        )
        self.documents = math.log(len(references))
        self.lengths = [[len(tokens) for tokens in each] for each in references]
        self.vectors = [[self._vector(caption) for caption in each] for each in counted]

    def _vector(self, counted: Sequence[Counter]) -> list[tuple[dict, float]]:
        vector = []
        for grams in counted:
            weights = {
                g: count * (self.documents - math.log(max(1, self.frequency[g])))
                for g, count in grams.items()
            }
            vector.append((weights, math.sqrt(sum(w * w for w in weights.values()))))
        return vector

    def __call__(self, image: int, tokens: Sequence[str], *, sigma: float = 6.0) -> float:
        """CIDEr-D of one caption, of about the size of 1 (10 for a reference itself)."""
        mine = self._vector([_grams(tokens, n) for n in range(1, 5)])
        total = 0.0
        for vector, length in zip(self.vectors[image], self.lengths[image]):
            alike = 0.0
            for (a, norm_a), (b, norm_b) in zip(mine, vector):
                if norm_a and norm_b:
                    shared = sum(min(w, b[g]) * b[g] for g, w in a.items() if g in b)
                    alike += shared / (norm_a * norm_b)
            total += alike / 4 * math.exp(-((len(tokens) - length) ** 2) / (2 * sigma**2))
        return 10 * total / len(self.vectors[image])

    def brevity(self, image: int, tokens: Sequence[str]) -> float:
        """BLEU's penalty for a caption shorter than the nearest in length of its references."""
        length = max(1, len(tokens))
        nearest = min(self.lengths[image], key=lambda each: (abs(each - length), each))
        return min(1.0, math.exp(1 - nearest / length))

    def many(
        self, images: Sequence[int], captions: Sequence[Sequence[Sequence[str]]]
    ) -> np.ndarray:
        """Rewards (B, S) of S captions of each of B images: CIDEr-D times `brevity`."""
        return np.array(
            [[self(i, c) * self.brevity(i, c) for c in each] for i, each in zip(images, captions)]
        )
