"""METEOR 1.5: pycocoevalcap's Java process, and its score from sums over captions."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pycocoevalcap.meteor import meteor

from . import java

__all__ = ["Meteor", "meteor_score"]

_ARGUMENTS = ("-Xmx2G", "-jar", meteor.METEOR_JAR, "-", "-", "-stdio", "-l", "en", "-norm")
#: METEOR 1.5's parameters for English (task "rank"): alpha, beta, gamma, delta, and the weights of
#: exact, stem, synonym and paraphrase matches (Denkowski and Lavie 2014, table 1)
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
MATCHES = np.array([1.0, 0.6, 0.8, 0.6])


class Meteor(meteor.Meteor):
    """METEOR 1.5 for English: one Java process, for as many methods as wanted.

        with Meteor() as meteor:
            statistics, scores, corpus = meteor.score(hypotheses, references)

    The process needs several seconds to start (it loads paraphrase tables) and at most 2 GB. It
    ends with the context, or with `close`.
    """

    def __init__(self) -> None:
        self.meteor_cmd = java.command(*_ARGUMENTS)
        self.lock = threading.Lock()
        try:
            self.meteor_p = subprocess.Popen(
                self.meteor_cmd,
                cwd=Path(meteor.__file__).parent,
                env=java.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise java.JavaError(
                f"METEOR could not start {self.meteor_cmd[0]}: {error.strerror or error}. "
                "`make setup` installs it afresh."
            ) from error

    def score(
        self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Score n tokenised captions against their tokenised references.

        Returns
        -------
        statistics : `(n, 6)`, sums of which give the score of any set of captions (`meteor_score`).
        scores : `(n,)`, METEOR of each caption.
        corpus : METEOR of all captions together.

        Raises `JavaError` if the process fails.
        """
        try:
            with self.lock:
                lines = [self._stat(h, list(r)) for h, r in zip(hypotheses, references)]
                if not all(lines):
                    raise self._stopped("no answer")
                question = "EVAL" + "".join(f" ||| {line}" for line in lines) + "\n"
                self.meteor_p.stdin.write(question.encode())
                self.meteor_p.stdin.flush()
                answers = [float(self.meteor_p.stdout.readline()) for _ in range(len(lines) + 1)]
        except (OSError, ValueError) as error:
            raise self._stopped(error) from error
        raw = np.array([[float(x) for x in line.split()] for line in lines])
        statistics, scores = _sufficient(raw), np.array(answers[:-1])
        computed = np.append(meteor_score(statistics), meteor_score(statistics.sum(0)))
        if not np.allclose(computed, answers, rtol=0, atol=1e-6):
            raise java.JavaError(
                "METEOR's scores do not follow from its statistics: unknown version?"
            )
        return statistics, scores, answers[-1]

    def _stopped(self, reason: object) -> java.JavaError:
        """An error with what the process, ended for good, wrote about it."""
        self.meteor_p.kill()
        log = self.meteor_p.stderr.read() if not self.meteor_p.stderr.closed else b""
        return java.JavaError.saying(f"METEOR stopped ({reason})", log)

    def close(self) -> None:
        """End the Java process. Safe to call twice."""
        process = getattr(self, "meteor_p", None)
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr) if process else ():
            with contextlib.suppress(OSError):
                stream.close()

    __del__ = close

    def __enter__(self) -> Meteor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _sufficient(raw: np.ndarray) -> np.ndarray:
    """METEOR's 23 numbers a caption, `(n, 23)`, reduced to the 6 that matter, `(n, 6)`.

    Weighted matches and weighted length of the caption, the same of its best reference, chunks,
    and matched words (mean of both sides).
    """
    length, reference_length, function, reference_function = raw[:, :4].T
    # content words and function words matched by each of the four matchers, both sides
    content, reference_content, small, reference_small = raw[:, 4:20].reshape(-1, 4, 4).T
    chunks, words, reference_words = raw[:, 20:23].T
    perfect = (chunks == 1) & (words == length) & (reference_words == reference_length)
    return np.stack(
        [
            (DELTA * content + (1 - DELTA) * small).T @ MATCHES,
            DELTA * (length - function) + (1 - DELTA) * function,
            (DELTA * reference_content + (1 - DELTA) * reference_small).T @ MATCHES,
            DELTA * (reference_length - reference_function) + (1 - DELTA) * reference_function,
            np.where(perfect, 0, chunks),  # a caption in one piece is not fragmented
            (words + reference_words) / 2,
        ],
        axis=1,
    )


def meteor_score(statistics: np.ndarray) -> np.ndarray:
    """METEOR from sums of `Meteor.score`'s statistics, `(..., 6)` to `(...)`; 0 without a match.

    The harmonic mean of precision and recall, times a penalty for fragmentation (Denkowski and
    Lavie, "Meteor Universal", 2014, section 2).

    >>> float(meteor_score(np.array([2.0, 2.0, 2.0, 2.0, 0.0, 3.0])))
    1.0
    """
    matches, length, reference_matches, reference_length, chunks, words = np.moveaxis(
        np.asarray(statistics, dtype=float), -1, 0
    )
    found = (matches > 0) & (reference_matches > 0)

    def ratio(numerator: np.ndarray, denominator: np.ndarray, empty: float) -> np.ndarray:
        return np.where(found, numerator, empty) / np.where(found, denominator, 1)

    precision = ratio(matches, length, 1)
    recall = ratio(reference_matches, reference_length, 1)
    mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
    return np.where(found, mean * (1 - GAMMA * ratio(chunks, words, 0) ** BETA), 0.0)
