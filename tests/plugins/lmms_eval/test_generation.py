"""A task's generation arguments in terms of `generate`."""

import doctest

import pytest

from lib.plugins.lmms_eval import generation
from lib.plugins.lmms_eval.generation import decoding


def test_examples():
    assert doctest.testmod(generation).failed == 0


@pytest.mark.parametrize("given", [{}, {"temperature": 0.0}, {"do_sample": False, "top_p": 1.0}])
def test_decoding_is_greedy_unless_asked(given):
    arguments = decoding(given).arguments
    assert arguments["do_sample"] is False and arguments["top_p"] is None
    assert arguments["max_new_tokens"] == 1024


def test_a_temperature_above_zero_samples():
    arguments = decoding({"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 3}).arguments
    assert arguments["do_sample"] and arguments["temperature"] == 0.7 and arguments["top_p"] == 0.9
    assert decoding({"do_sample": True}).arguments["do_sample"]
    assert not decoding({"do_sample": True, "temperature": 0}).arguments["do_sample"]


def test_the_name_of_language_tasks_for_a_length_counts():
    assert decoding({"max_gen_toks": 7}).arguments["max_new_tokens"] == 7


def test_what_generate_does_not_know_is_left_out_and_told():
    how = decoding({"image_aspect_ratio": "original", "num_beams": 2})
    assert how.unknown == ("image_aspect_ratio",)
    assert "image_aspect_ratio" not in how.arguments and how.beams == 2
    assert decoding({"num_beams": None}).beams == 1


def test_an_answer_ends_at_the_first_stop_but_not_at_the_frameworks():
    how = decoding({"until": ["\n\n", "USER", ".", ""]})
    assert how.stops == ("USER", ".")
    assert how.cut("one\n\ntwo. three USER") == "one\n\ntwo"
    assert decoding({"until": "</s>"}).stops == ("</s>",)
    assert decoding({"until": None}).stops == ()
