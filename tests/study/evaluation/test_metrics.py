"""Scores against independent computations; incomplete input is named."""

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from lib.study.evaluation import METRICS, compare, score, score_many
from tests.study.evaluation.corpora import tokens_of
from tests.study.evaluation.test_bleu import ngrams


def cider_by_hand(said, truth, sigma=6.0):
    """CIDEr-D (Vedantam et al. 2015) with idf from the references of the evaluated images.

    As in COCO's evaluation the length is counted in bigrams, and so is the difference here.
    """
    seen = Counter()
    for texts in truth:
        seen.update({g for text in texts for k in range(1, 5) for g in ngrams(text, k)})

    def vector(text, k):
        return {
            g: c * (math.log(len(truth)) - math.log(max(1, seen[g])))
            for g, c in ngrams(text, k).items()
        }

    scores = []
    for hypothesis, texts in zip(said, truth):
        total = 0.0
        for text in texts:
            gap = ngrams(hypothesis, 2).total() - ngrams(text, 2).total()
            for k in range(1, 5):
                a, b = vector(hypothesis, k), vector(text, k)
                norm = math.hypot(*a.values()) * math.hypot(*b.values())
                dot = sum(min(a[g], b[g]) * b[g] for g in a.keys() & b.keys())
                if norm:
                    total += dot / norm * math.exp(-(gap**2) / (2 * sigma**2))
        scores.append(10 * total / 4 / len(texts))
    return scores


def test_cider_is_cider(scored):
    references, records, results = scored
    for method, rows in records.items():
        said, truth = tokens_of(references, rows)
        expected = cider_by_hand(said, truth)
        np.testing.assert_allclose(results[method].per_image["CIDEr"], expected, atol=1e-12)
        assert results[method].values["CIDEr"] == pytest.approx(np.mean(expected))


def test_rouge_is_rouge():
    # longest common subsequence "the cat the mat": 4 of 6 words in both, so P = R = F = 2/3
    result = score(
        [{"image_id": 1, "caption": "the cat lay by the mat"}],
        {1: ["the cat sat on the mat"]},
        metrics=["ROUGE-L"],
    )
    assert result.values["ROUGE-L"] == pytest.approx(2 / 3)


def test_better_captions_score_higher_on_everything(scored):
    *_, results = scored
    assert list(results["good"].values) == list(METRICS)
    for name in results["good"].metrics:
        assert results["good"].values[name] > results["poor"].values[name]


def test_perfect_and_empty_captions(meteor):
    references = {1: ["a red circle and two blue squares"], 2: ["one small green triangle sits"]}
    records = {
        "perfect": [{"image_id": i, "caption": texts[0]} for i, texts in references.items()],
        "empty": [{"image_id": i, "caption": ""} for i in references],
    }
    results = score_many(records, references, meteor=meteor, n_bootstrap=50)
    perfect, empty = results["perfect"], results["empty"]
    for name in ("BLEU-1", "BLEU-4", "METEOR", "ROUGE-L"):
        assert perfect.values[name] == pytest.approx(1, abs=1e-6)
    assert perfect.values["CIDEr"] == pytest.approx(10)
    assert all(empty.values[name] == pytest.approx(0, abs=1e-9) for name in empty.metrics)


def test_incomplete_or_contradictory_input_is_named():
    references = {1: ["a dog"], 2: ["a cat"], 3: ["a boat"]}
    rows = [{"image_id": i, "caption": "a dog"} for i in references]
    quick = {"metrics": ["BLEU-1"], "n_bootstrap": 0}
    with pytest.raises(ValueError, match=r"images without a record: image_id 2, 3\. "):
        score(rows[:1], references, **quick)
    with pytest.raises(ValueError, match="recorded images have no references: image_id 3"):
        score(rows, {1: ["a dog"], 2: ["a cat"]}, **quick)
    with pytest.raises(ValueError, match="m: recorded twice: image_id 1"):
        score_many({"m": [*rows, rows[0]]}, references, **quick)
    for empty in ([], ["  "], ["a dog", ""]):
        with pytest.raises(ValueError, match=r"without references, or .* empty one: image_id 2"):
            score(rows, references | {2: empty}, **quick)
    with pytest.raises(ValueError, match="must be lists of captions: image_id 2: 'a cat'"):
        score(rows, references | {2: "a cat"}, **quick)
    with pytest.raises(ValueError, match="needs image_id and caption"):
        score([{"image_id": 1}], references, **quick)
    with pytest.raises(ValueError, match="the caption of image_id 1 is no text: None"):
        score([{"image_id": 1, "caption": None}], references, **quick)
    with pytest.raises(ValueError, match=r"caption of image_id 1 holds half a character"):
        score([{"image_id": 1, "caption": "a \ud83d"}], {1: ["a dog"]}, **quick)
    with pytest.raises(ValueError, match=r"references with half a character .*: image_id 2"):
        score(rows, references | {2: ["a cat", "\udc00"]}, **quick)
    with pytest.raises(ValueError, match="unknown metric 'BLEU'"):
        score(rows, references, metrics=["BLEU"])
    with pytest.raises(ValueError, match="n_bootstrap must be at least 0"):
        score(rows, references, n_bootstrap=-1)
    with pytest.raises(ValueError, match="references are empty"):
        score([], {})
    examples = [SimpleNamespace(image_id=i, references=tuple(t)) for i, t in references.items()]
    assert score(rows, examples, **quick).values == score(rows, references, **quick).values
    with pytest.raises(ValueError, match="references occur twice: image_id 1"):
        score(rows, [*examples, examples[0]], **quick)
    fewer = score(rows[:2], {1: ["a dog"], 2: ["a cat"]}, **quick)
    with pytest.raises(ValueError, match="scored on different images: image_id 3"):
        compare(score(rows, references, **quick), fewer)
    with pytest.raises(ValueError, match="n_bootstrap must be at least 1"):
        compare(fewer, fewer, n_bootstrap=0)
