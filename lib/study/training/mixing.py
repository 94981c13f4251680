"""Weights between two checkpoints of one training, and which of them caption best.

Training by score makes captions plainer than people's, and training by words scores lower; a
weighted mean of the two often does better than either (averages of fine-tuned weights:
arXiv:2109.01903).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider import Cider

from .cider import words

State = Mapping[str, torch.Tensor]


def mixed(before: State, after: State, share: float) -> dict[str, torch.Tensor]:
    """(1 - share) · before + share · after, weight by weight.

    >>> mixed({"w": torch.zeros(1)}, {"w": torch.ones(1)}, 0.25)["w"].item()
    0.25
    """
    if before.keys() != after.keys():
        raise ValueError(f"other weights: {sorted(before.keys() ^ after.keys())[:3]}")
    return {name: torch.lerp(weight, after[name], share) for name, weight in before.items()}


def quality(said: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """CIDEr and BLEU-4 in per cent, of lower-case words without punctuation.

    Not COCO's tokens, so it needs no Java and only compares checkpoints with each other.
    """
    captions = [" ".join(words(text)) for text in said]
    truth = [[" ".join(words(text)) for text in texts] for texts in references]
    bleu = BleuScorer(n=4)
    for caption, texts in zip(captions, truth, strict=True):
        bleu += (caption, texts)
    cider = Cider()
    score, _ = cider.compute_score(dict(enumerate(truth)), {i: [c] for i, c in enumerate(captions)})
    corpus, _ = bleu.compute_score(option="closest", verbose=0)
    return {"CIDEr": 100 * float(score), "BLEU-4": 100 * float(corpus[3])}
