"""Tokens line up with captions, whatever white space these hold."""

import pytest

from lib.study.evaluation import JavaError, java
from lib.study.evaluation.tokens import tokenize


def test_tokens_are_ptb_tokens_and_line_up_whatever_the_white_space():
    captions = {
        "a": ["A man's dog -- it runs, fast!", "two\u2028lines\x85and\ttabs\x0b|||end"],
        "b": [""],
        "c": [],
        "d": ["Café naïve", "", "."],
    }
    assert tokenize(captions) == {
        "a": ["a man 's dog it runs fast", "two lines and tabs end"],
        "b": [""],
        "c": [],
        "d": ["café naïve", "", ""],
    }
    assert tokenize({}) == {} and tokenize({1: []}) == {1: []}


@pytest.mark.parametrize("answer", [b"", b"a dog\na cat\n\n"])
def test_a_tokenizer_that_loses_a_line_is_an_error_and_not_other_captions(monkeypatch, answer):
    monkeypatch.setattr(java, "run", lambda *_, **__: answer)
    with pytest.raises(JavaError, match=r"did not return every caption: \d lines of 2"):
        tokenize({1: ["a dog"], 2: ["a cat"]})
