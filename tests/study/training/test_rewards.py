"""Rewards of samples are those of their words, whoever computes them."""

import numpy as np
import pytest
import torch

from lib.study.training.cider import END, CiderReward, words
from lib.study.training.rewards import Rewards

CAPTIONS = [["a red circle", "one red circle"], ["two blue squares", "blue squares"],
            ["a green triangle"]]  # fmt: skip
SAID = [["a red circle", "a blue square"], ["two squares", "blue squares"], ["a", "a triangle"]]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_samples_are_scored_by_their_words_and_end(processor, workers):
    tokenizer = processor.tokenizer
    end = tokenizer.eos_token_id
    rows = [[[*tokenizer(t, add_special_tokens=False)["input_ids"], end] for t in each]
            for each in SAID]  # fmt: skip
    rows[2][0].pop()  # a caption that was cut off has no end
    longest = max(len(row) for each in rows for row in each)
    said = torch.tensor([[row + [end] * (longest - len(row)) for row in each] for each in rows])
    said[2, 0, len(rows[2][0]) :] = rows[2][0][-1]
    images = [2, 0, 1]
    with Rewards(CAPTIONS, tokenizer, workers=workers) as rewards:
        ids, scores = rewards(images, said)
    reward = CiderReward([[[*words(text), END] for text in each] for each in CAPTIONS])
    for i, image in enumerate(images):
        for j, row in enumerate(ids[i]):
            assert row == (rows[i][j] if (i, j) != (2, 0) else said[2, 0].tolist())
            text = tokenizer.decode(row, skip_special_tokens=True)
            spoken = [*words(text), *([END] if row[-1] == end else [])]
            assert scores[i, j] == reward(image, spoken) * reward.brevity(image, spoken)
    assert scores.shape == (3, 2) and np.isfinite(scores).all()
