"""Captions: tidy sentences in, the same sentences out."""

import pytest
import torch

from lib.study.training.captions import decode, encode, tidy


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("A child in a pink dress .", "A child in a pink dress."),
        ("two dogs , one ball", "Two dogs, one ball."),
        ("a man 's hat .  ", "A man's hat."),
        ("Running !", "Running."),
    ],
)
def test_captions_become_sentences(raw, wanted):
    assert tidy(raw) == wanted


def test_they_end_and_are_cut(processor):
    tokenizer = processor.tokenizer
    said = [["a red circle .", "two blue squares"], ["green"]]
    ids = encode(tokenizer, said, longest=30)
    assert [len(each) for each in ids] == [2, 1]
    assert all(caption[-1] == tokenizer.eos_token_id for each in ids for caption in each)
    assert decode(tokenizer, torch.tensor([ids[0][0]])) == ["A red circle."]
    assert max(len(c) for each in encode(tokenizer, said, longest=3) for c in each) == 3
