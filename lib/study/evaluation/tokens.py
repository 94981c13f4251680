"""Captions to tokens, as COCO's evaluation does."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pycocoevalcap.tokenizer import ptbtokenizer

from . import java

__all__ = ["tokenize"]

Key = TypeVar("Key", bound=Hashable)

_ARGUMENTS = (
    "-Xmx1G",
    "-cp",
    ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR,
    "edu.stanford.nlp.process.PTBTokenizer",
    "-preserveLines",
    "-lowerCase",
)


def tokenize(captions: Mapping[Key, Sequence[str]]) -> dict[Key, list[str]]:
    """Tokenise captions as COCO's evaluation does: PTB tokens, lower case, no punctuation.

    All captions go through one Java process: pycocoevalcap's tokenizer with its own options and
    its list of punctuation. White space of any kind becomes one space first, because the tokenizer
    takes exotic line separators for ends of lines; so does `|||`, which METEOR takes for a field
    separator.

    >>> tokenize({1: ["A man's dog, running!"]})
    {1: ["a man 's dog running"]}

    Raises `JavaError` if the tokenizer fails.
    """
    said = [text for texts in captions.values() for text in texts]
    if not said:
        return {key: [] for key in captions}
    lines = "\n".join(" ".join(text.replace("|||", " ").split()) for text in said)
    folder = Path(ptbtokenizer.__file__).parent
    answer = java.run("the PTB tokenizer", _ARGUMENTS, folder=folder, text=lines.encode())
    found = answer.decode().split("\n")
    if len(found) - len(said) not in (0, 1):  # the last line may end with a line end
        raise java.JavaError(
            f"the PTB tokenizer did not return every caption: {len(found)} lines of {len(said)}"
        )
    rows = iter(found)
    return {key: [_words(next(rows)) for _ in texts] for key, texts in captions.items()}


def _words(line: str) -> str:
    words = line.rstrip().split(" ")
    return " ".join(word for word in words if word not in ptbtokenizer.PUNCTUATIONS)
