"""BLEU against its definition."""

import math
from collections import Counter

import pytest

from lib.study.evaluation import score
from tests.study.evaluation.corpora import tokens_of


def ngrams(text, n):
    words = text.split()
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def bleu_by_hand(said, truth, n):
    """Papineni et al. 2002 with the closest reference length, the shorter of two."""
    logs = 0.0
    for k in range(1, n + 1):
        right = total = 0
        for hypothesis, texts in zip(said, truth):
            best = Counter()
            for text in texts:
                best |= ngrams(text, k)
            found = ngrams(hypothesis, k)
            right += (found & best).total()
            total += found.total()
        if not right:
            return 0.0
        logs += math.log(right / total) / n
    length = sum(len(h.split()) for h in said)
    wanted = sum(
        min((abs(len(t.split()) - len(h.split())), len(t.split())) for t in texts)[1]
        for h, texts in zip(said, truth)
    )
    return math.exp(logs + min(0.0, 1 - wanted / length))


def test_bleu_is_bleu(scored):
    references, records, results = scored
    for method, rows in records.items():
        said, truth = tokens_of(references, rows)
        values = results[method].values
        for n in range(1, 5):
            assert values[f"BLEU-{n}"] == pytest.approx(bleu_by_hand(said, truth, n), abs=1e-9)
    short = score(
        [{"image_id": 1, "caption": "The cat sat."}],
        {1: ["the cat sat on the mat", "a cat sat on the red mat"]},
        metrics=["BLEU-1", "BLEU-2"],
    )
    assert short.values["BLEU-1"] == pytest.approx(math.exp(1 - 6 / 3), abs=1e-6)
    assert short.values["BLEU-2"] == pytest.approx(math.exp(1 - 6 / 3), abs=1e-6)
