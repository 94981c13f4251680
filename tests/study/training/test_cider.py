"""The reward is pycocoevalcap's CIDEr-D, times BLEU's brevity penalty."""

import math

import pytest
from pycocoevalcap.cider.cider import Cider

from lib.study.training.cider import CiderReward, words

REFERENCES = [
    ["a black dog runs on the grass", "the dog is running", "dog on grass near a red fence"],
    ["two men play football", "men in red shirts play", "a game of football on the grass"],
    ["a girl jumps into the water", "a girl in a pool", "the girl jumps"],
]
SAID = ["a dog runs on the grass", "two men in red play football", "a dog"]


def test_it_is_cider_d():
    reward = CiderReward([[words(c) for c in each] for each in REFERENCES])
    _, expected = Cider().compute_score(
        dict(enumerate(REFERENCES)), {i: [text] for i, text in enumerate(SAID)}
    )
    got = [reward(i, words(text)) for i, text in enumerate(SAID)]
    assert got == pytest.approx(list(expected), rel=1e-9)


def test_short_captions_lose():
    reward = CiderReward([[words(c) for c in each] for each in REFERENCES])
    assert reward.brevity(0, ["a", "b", "c", "d"]) == 1  # as long as the shortest reference
    assert reward.brevity(0, ["dog", "runs"]) == pytest.approx(math.exp(1 - 4 / 2))
    both = reward.many([0], [[words(SAID[0]), ["dog", "running"]]])
    assert both[0, 0] == pytest.approx(reward(0, words(SAID[0])) * math.exp(1 - 7 / 6))
    assert both[0, 1] == pytest.approx(reward(0, ["dog", "running"]) * math.exp(-1))


def test_words_are_lower_case_without_punctuation():
    assert words("A dog's Ball, red-hot!") == ["a", "dog's", "ball", "red", "hot"]
