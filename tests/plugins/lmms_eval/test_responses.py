"""Responses that are computed as they are asked for."""

import json

import pytest

from lib.plugins.lmms_eval.responses import Likelihood, PruningCounts, Responses, response
from lib.plugins.lmms_eval.running import Answer, Measured, Score

MEASURED = Measured(300, 7, 256, 64, 0.25, 1.5)


def counted(log):
    for start in (0, 2, 4):
        log.append(start)
        yield [start, start + 1]


def test_nothing_is_computed_before_it_is_looked_at():
    log = []
    responses = Responses(6, counted(log))
    assert len(responses) == 6 and log == []
    each = iter(responses)
    assert [next(each), next(each)] == [0, 1] and log == [0]
    assert next(each) == 2 and log == [0, 2]
    assert list(responses) == [0, 1, 2, 3, 4, 5] and log == [0, 2, 4]


def test_a_zip_that_ends_first_leaves_nothing_out():
    log = []
    assert list(zip(range(6), Responses(6, counted(log)))) == [(n, n) for n in range(6)]


def test_places_are_those_of_a_list():
    responses = Responses(6, counted([]))
    assert responses[3] == 3 and responses[-1] == 5 and responses[1:4] == [1, 2, 3]
    with pytest.raises(IndexError):
        responses[6]


def test_the_counts_are_logged_with_the_sample():
    made = response(Answer("a red circle", MEASURED))
    assert made.text == "a red circle"
    assert made.token_counts.to_dict() == {
        "input_tokens": 300, "output_tokens": 7, "visual_tokens": 256, "kept_tokens": 64,
        "first_token_seconds": 0.25,
    }  # fmt: skip
    assert PruningCounts(input_tokens=3).to_dict() == {"input_tokens": 3}


def test_tasks_can_unpack_a_likelihood():
    made = [response(Score(loss, True, MEASURED)).text for loss in (0.5, 0.25)]
    losses, greedy = zip(*made)
    assert losses == (0.5, 0.25) and greedy == (True, True)
    assert json.loads(json.dumps(made[0])) == [0.5, True]
    assert not Likelihood(0.5, True).strip()
