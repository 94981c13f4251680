"""METEOR's process, and the score of a set from the statistics of its captions."""

import subprocess

import numpy as np
import pytest

from lib.study.evaluation import JavaError
from lib.study.evaluation.meteor import Meteor, meteor_score


def test_meteor_of_a_set_follows_from_the_statistics_of_its_captions(meteor, scored):
    said = ["a man rides a horse", "dogs run", "", "a man rode the horses fast", "boat"]
    truth = [
        ["a man rides a horse"],
        ["a dog is running", "puppies sprint"],
        ["a cat"],
        ["the man rides a horse"],
        ["a small boat on water", "a ship"],
    ]
    statistics, scores, _ = meteor.score(said, truth)
    assert scores[0] == 1 and scores[2] == 0 and 0 < scores[3] < 1
    for chosen in ([0, 1], [0, 0, 3], [1, 2, 4], [2], [4, 3, 2, 1, 0, 0, 0]):
        *_, corpus = meteor.score([said[i] for i in chosen], [truth[i] for i in chosen])
        assert meteor_score(statistics[chosen].sum(0)) == pytest.approx(corpus, abs=1e-9)
    # Lavie's example in numbers: all words match in two chunks of a six-word sentence
    two_chunks = meteor_score(np.array([6.0, 6.0, 6.0, 6.0, 2.0, 6.0]))
    assert two_chunks == pytest.approx(1 - 0.6 * (2 / 6) ** 0.2)
    good = scored[2]["good"]
    assert good.values["METEOR"] == pytest.approx(
        float(meteor_score(good.statistics["METEOR"].sum(0))), abs=1e-6
    )


def test_the_meteor_process_ends_with_its_context(monkeypatch):
    started = []
    real = subprocess.Popen

    def start(command, **options):
        # not METEOR itself: a process that waits for input as it does, and says nothing
        started.append(real(["cat"] if "-stdio" in command else command, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    with Meteor() as process:
        (child,) = started
        assert child.poll() is None
        child.kill()
        child.wait()
        with pytest.raises(JavaError, match="METEOR stopped"):
            process.score(["a dog"], [["a dog"]])
    assert child.stdin.closed and child.stdout.closed and child.stderr.closed
    process.close()
    with pytest.raises(ZeroDivisionError), Meteor():
        raise ZeroDivisionError
    assert started[-1].returncode is not None
