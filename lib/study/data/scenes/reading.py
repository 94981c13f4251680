"""Reading a caption back: the objects that it names, and how many of them are right."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .words import COLOUR_OF, COLOURS, FILLERS, LINKS, NUMBERS, PLURALS, SHAPE_OF, SHAPES


def caption_tokens(raw: str) -> list[str]:
    """Lower-case words without punctuation, as in the Karpathy files.

    Examples
    --------
    >>> caption_tokens("A red star, on wood.")
    ['a', 'red', 'star', 'on', 'wood']
    """
    return re.findall(r"[a-z0-9'-]+", raw.lower())


def _shape(word: str) -> tuple[str, bool] | None:
    if word in SHAPE_OF:
        return SHAPE_OF[word], False
    if word in PLURALS:
        return PLURALS[word], True
    if word.endswith("s") and word[:-1] in SHAPE_OF:
        return SHAPE_OF[word[:-1]], True
    return None


def named_objects(caption: str) -> Counter:
    """The objects that a caption names, as a multiset of (colour, shape).

    Reads number words and digits ("two", "a pair of", "3"), colour synonyms, plural and synonym
    nouns, and colours that follow ("a star that is red", "a circle in blue"). An object without a
    colour counts as ``(None, shape)`` and matches nothing; colours of other things ("a white
    wall") are ignored.

    Examples
    --------
    >>> sorted(named_objects("A pair of tiny red stars and a violet hoop on a white wall.").items())
    [(('purple', 'ring'), 1), (('red', 'star'), 2)]
    """
    words = re.findall(r"[a-z]+(?:-[a-z]+)*|\d+", caption.lower())
    found: list[tuple[str | None, str, int]] = []
    number, colours = None, []
    after = False  # only link words since the last, still uncoloured, noun
    for word in words:
        # "a star plus a ring" names no cross; "a red plus" does
        shape = _shape(word) if word != "plus" or colours or number is not None else None
        if shape is not None:
            name, plural = shape
            count = number if number is not None else (2 if plural else 1)
            if len(colours) > 1:  # "a red and a blue star" is not read as two stars of one colour
                found += [(colour, name, 1) for colour in colours[:-1]]
            found.append((colours[-1] if colours else None, name, count))
            number, colours, after = None, [], not colours
        elif word in COLOUR_OF:
            if after and found[-1][0] is None:
                found[-1] = (COLOUR_OF[word], *found[-1][1:])
                after = False
            else:
                colours.append(COLOUR_OF[word])
        elif word in NUMBERS or word.isdigit():
            if not (word in ("a", "an", "the", "one") and colours):
                number = int(word) if word.isdigit() else NUMBERS[word]
                after = False
        elif word == "and" and colours:
            continue  # "a red and a blue star"
        elif word in FILLERS or (after and word in LINKS):
            continue
        else:
            number, colours, after = None, [], False
    total: Counter = Counter()
    for colour, shape_name, count in found:
        total[colour, shape_name] += min(count, 6)
    return total


class ObjectScore(NamedTuple):
    """Agreement of the named with the drawn objects, each in [0, 1]."""

    precision: float
    recall: float
    f1: float


def object_f1(caption: str, objects: Iterable[Mapping]) -> ObjectScore:
    """Precision, recall and F1 of the objects that a caption names (colour, shape and number).

    Parameters
    ----------
    caption : free text; see :func:`named_objects` for what is understood.
    objects : ground-truth records with ``shape`` and ``colour``.

    Raises
    ------
    ValueError : an object has an unknown shape or colour.

    Examples
    --------
    >>> truth = [{"shape": "star", "colour": "red"}, {"shape": "ring", "colour": "blue"}]
    >>> object_f1("Two red stars.", truth)
    ObjectScore(precision=0.5, recall=0.5, f1=0.5)
    """
    truth: Counter = Counter()
    for item in objects:
        colour, shape = item["colour"], item["shape"]
        if colour not in COLOURS or shape not in SHAPES:
            raise ValueError(
                f"unknown object {colour!r} {shape!r}: colours are {list(COLOURS)}, "
                f"shapes are {list(SHAPES)}"
            )
        truth[colour, shape] += 1
    named = named_objects(caption)
    hits = sum((truth & named).values())
    said, drawn = sum(named.values()), sum(truth.values())
    precision = hits / said if said else float(drawn == 0)
    recall = hits / drawn if drawn else float(said == 0)
    f1 = 2 * hits / (said + drawn) if said + drawn else 1.0
    return ObjectScore(precision, recall, f1)
