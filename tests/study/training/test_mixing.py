"""Mixtures of weights, and the score that chooses among them."""

import pytest
import torch

from lib.study.training.mixing import mixed, quality

REFERENCES = [["A dog runs on the grass .", "A brown dog runs fast ."], ["Two men play football ."]]


def test_a_mixture_is_a_weighted_mean():
    generator = torch.Generator().manual_seed(0)
    a, b = ({"w": torch.randn(3, 2, generator=generator)} for _ in range(2))
    torch.testing.assert_close(mixed(a, b, 0.3)["w"], 0.7 * a["w"] + 0.3 * b["w"])
    torch.testing.assert_close(mixed(a, b, 1.0)["w"], b["w"])
    with pytest.raises(ValueError, match=r"other weights: \[.x.\]"):
        mixed(a, {**b, "x": torch.zeros(1)}, 0.5)


def test_better_captions_score_more_whatever_case_and_punctuation():
    said = ["A dog runs on the grass", "two men play football!"]
    right = quality(said, REFERENCES)
    assert right["BLEU-4"] == pytest.approx(100, abs=0.1)
    assert quality([text.upper() for text in said], REFERENCES) == right
    wrong = quality(["A cat sits on a mat", "two men play chess"], REFERENCES)
    assert wrong["CIDEr"] < right["CIDEr"] and wrong["BLEU-4"] < right["BLEU-4"]
