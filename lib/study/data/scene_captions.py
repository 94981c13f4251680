"""The language of the embedded data set: its words, its captions and its object F1.

``lib.study.data.scenes`` draws; this module speaks. Captions are composed from a small grammar
with synonyms,
several orders, relations, places and levels of detail, so that five captions of one scene read
like five people. :func:`object_f1` reads a caption back: which objects, in which colour, how many.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

# The first word of each entry is the canonical name; the others are synonyms.
SHAPES: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc", "ball"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "heart": ("heart",),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop"),
    "diamond": ("diamond", "rhombus"),
    "moon": ("moon", "crescent"),
}
COLOURS: dict[str, tuple[str, ...]] = {
    "red": ("red", "scarlet"),
    "orange": ("orange",),
    "yellow": ("yellow", "golden"),
    "green": ("green",),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
    "pink": ("pink",),
    "white": ("white",),
    "black": ("black",),
}
SIZES: dict[str, tuple[str, ...]] = {
    "small": ("small", "tiny", "little"),
    "medium": ("medium",),
    "large": ("large", "big"),
}
BACKGROUNDS: dict[str, tuple[str, ...]] = {
    "plain": ("a plain background", "a plain wall", "an empty background"),
    "gradient": ("a smooth background", "a softly shaded wall", "a smooth surface"),
    "grain": ("a grainy surface", "a sandy surface", "sand"),
    "stripes": ("a striped background", "stripes", "a striped cloth"),
    "tiles": ("a checkered floor", "a tiled floor", "tiles"),
    "dots": ("a dotted background", "a spotted cloth", "a dotted wallpaper"),
    "bricks": ("a brick wall", "bricks", "a wall of bricks"),
    "wood": ("a wooden table", "wood", "a wooden board"),
    "field": ("a field under the sky", "grass below a clear sky", "a meadow and the sky"),
    "flower": ("a photo of a flower", "a flower picture", "a picture of petals"),
    "palace": ("a photo of a palace", "a picture of a palace", "an old building"),
}
PLACES: dict[tuple[int, int], str] = {
    (-1, -1): "in the top left corner",
    (0, -1): "at the top",
    (1, -1): "in the top right corner",
    (-1, 0): "on the left",
    (0, 0): "in the middle",
    (1, 0): "on the right",
    (-1, 1): "in the bottom left corner",
    (0, 1): "at the bottom",
    (1, 1): "in the bottom right corner",
}

_COUNTS = {2: ("two", "two", "two", "a pair of"), 3: ("three", "three", "three", "a trio of")}
_NUMBERS = {
    "a": 1,
    "an": 1,
    "one": 1,
    "single": 1,
    "the": 1,
    "another": 1,
    "two": 2,
    "pair": 2,
    "both": 2,
    "couple": 2,
    "three": 3,
    "trio": 3,
    "four": 4,
    "five": 5,
    "six": 6,
}
_SHAPE_OF = {word: name for name, words in SHAPES.items() for word in words}
_SHAPE_OF |= {
    "disk": "circle",
    "dot": "circle",
    "plus sign": "cross",
    "donut": "ring",
    "lozenge": "diamond",
    "block": "square",
}
_PLURALS = {
    "boxes": "square",
    "crosses": "cross",
    "pluses": "cross",
    "rhombuses": "diamond",
    "rhombi": "diamond",
}
_COLOUR_OF = {word: name for name, words in COLOURS.items() for word in words}
_COLOUR_OF |= {"crimson": "red", "gold": "yellow", "navy": "blue", "lime": "green"}
_FILLERS = {word for words in SIZES.values() for word in words}
_FILLERS |= {"sized", "bright", "dark", "huge", "medium-sized", "of", "very", "solid"}
_LINKS = {"in", "that", "which", "is", "are", "coloured", "colored", "painted"}


class Rng:
    """Integer draws from a Mersenne Twister, whose ``getrandbits`` never changed between Pythons.

    Examples
    --------
    >>> rng = Rng(3)
    >>> [rng.below(10) for _ in range(5)]
    [2, 5, 5, 1, 3]
    """

    def __init__(self, seed: int) -> None:
        self._bits = random.Random(seed).getrandbits

    def below(self, n: int) -> int:
        """An integer in [0, n)."""
        return (self._bits(32) * n) >> 32

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high], both ends included."""
        return low + self.below(high - low + 1)

    def chance(self, percent: int) -> bool:
        """True in ``percent`` of 100 draws."""
        return self.below(100) < percent

    def pick(self, items: Sequence):
        """One of ``items``."""
        return items[self.below(len(items))]

    def weighted(self, weights: Sequence[int]) -> int:
        """An index, with probability in proportion to integer ``weights``."""
        if min(weights) < 0 or sum(weights) == 0:
            raise ValueError(f"weights must be positive integers or 0, got {weights!r}")
        mark, index = self.below(sum(weights)), 0
        while mark >= weights[index]:
            mark -= weights[index]
            index += 1
        return index

    def shuffled(self, items: Iterable) -> list:
        """A new list in random order."""
        items = list(items)
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]
        return items


class Group(NamedTuple):
    """Objects of one shape, colour and size, with the centre of each in pixels."""

    shape: str
    colour: str
    size: str
    centres: tuple[tuple[int, int], ...]


def group_objects(objects: Iterable[Mapping]) -> list[Group]:
    """Objects that a speaker names together, largest first (ties by first appearance)."""
    centres: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for item in objects:
        x, y, w, h = item["box"]
        key = (item["shape"], item["colour"], item["size"])
        centres.setdefault(key, []).append((x + w // 2, y + h // 2))
    order = {"large": 0, "medium": 1, "small": 2}
    groups = [Group(*key, tuple(places)) for key, places in centres.items()]
    return sorted(groups, key=lambda group: order[group.size])


def _word(rng: Rng, words: Sequence[str], main: int = 70) -> str:
    """The usual word in ``main`` percent of cases, else a synonym."""
    return words[0] if len(words) == 1 or rng.chance(main) else rng.pick(words[1:])


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("x", "s")) else "s")


def _phrase(rng: Rng, group: Group) -> str:
    """A noun phrase: count, size (often), colour, shape."""
    words = []
    named = {"small": 65, "large": 60, "medium": 4}[group.size]
    if rng.chance(named):
        words.append(_word(rng, SIZES[group.size], 60))
    words.append(_word(rng, COLOURS[group.colour], 88))
    noun = _word(rng, SHAPES[group.shape], 80)
    count = len(group.centres)
    if count == 1:
        words.append(noun)
        article = "an" if words[0][0] in "aeiou" else "a"
        if rng.chance(4):
            article = "one"
        return " ".join([article, *words])
    words.append(_plural(noun))
    return " ".join([rng.pick(_COUNTS[count]), *words])


def _place(group: Group, extent: int) -> str | None:
    """Where a group lies in the picture (thirds), or None when its members are spread out."""
    cells = {(3 * x // extent - 1, 3 * y // extent - 1) for x, y in group.centres}
    return PLACES[cells.pop()] if len(cells) == 1 else None


def _relation(rng: Rng, a: Group, b: Group) -> str | None:
    """How ``a`` lies to ``b`` if that holds for all members and is plain to see, else None."""
    dx = [p[0] - q[0] for p in a.centres for q in b.centres]
    dy = [p[1] - q[1] for p in a.centres for q in b.centres]
    if max(dx) < -30 and max(abs(v) for v in dy) < -max(dx):
        return rng.pick(("to the left of", "to the left of", "left of"))
    if min(dx) > 30 and max(abs(v) for v in dy) < min(dx):
        return rng.pick(("to the right of", "to the right of", "right of"))
    if max(dy) < -30 and max(abs(v) for v in dx) < -max(dy):
        return rng.pick(("above", "above", "over"))
    if min(dy) > 30 and max(abs(v) for v in dx) < min(dy):
        return rng.pick(("below", "below", "under"))
    return None


def _listing(phrases: Sequence[str]) -> str:
    if len(phrases) == 1:
        return phrases[0]
    return ", ".join(phrases[:-1]) + " and " + phrases[-1]


def _order(rng: Rng, groups: list[Group]) -> list[Group]:
    """Mostly by size; sometimes as read from left to right, or from top to bottom."""
    kind = rng.weighted((74, 14, 12))
    if kind == 0:
        rank = {"large": 0, "medium": 1, "small": 2}
        return sorted(rng.shuffled(groups), key=lambda group: rank[group.size])
    axis = kind - 1
    return sorted(groups, key=lambda group: min(centre[axis] for centre in group.centres))


def compose_caption(
    objects: Sequence[Mapping], background: str, *, random_state: int, extent: int = 224
) -> str:
    """One caption of a scene, a deterministic function of its arguments.

    Parameters
    ----------
    objects : records with ``shape``, ``colour``, ``size`` and ``box`` (x, y, w, h in pixels).
    background : a key of :data:`BACKGROUNDS`.
    random_state : chooses words, order, relations, places and level of detail.
    extent : side of the picture in pixels.

    Examples
    --------
    >>> thing = {"shape": "star", "colour": "red", "size": "small", "box": [10, 10, 12, 12]}
    >>> compose_caption([thing], "wood", random_state=1)
    'A little red star on a wooden table.'
    """
    rng = Rng(random_state)
    groups = _order(rng, group_objects(objects))
    # Some people leave out what is small when there is something larger to talk about.
    larger = [group for group in groups if group.size != "small"]
    if larger and len(larger) < len(groups) and rng.chance(7):
        groups = larger
    phrases = [_phrase(rng, group) for group in groups]
    style = rng.weighted((46, 12, 8, 22, 12))
    scenery = _word(rng, BACKGROUNDS[background], 60) if rng.chance(72) else None
    on = "before" if background in ("flower", "palace", "field") else "on"
    if on == "before":
        on = rng.pick(("in front of", "in front of", "over"))

    if style == 3 and len(groups) >= 2:  # relation between the first two, then the rest
        link = _relation(rng, groups[0], groups[1])
        if link is not None:
            first = f"{phrases[0]} {link} {phrases[1]}"
            text = first if len(phrases) == 2 else f"{first}, with {_listing(phrases[2:])}"
            return _finish(text if scenery is None else f"{text}, {on} {scenery}")
    if style == 4:  # the first one's place
        place = _place(groups[0], extent)
        if place is not None:
            rest = f" with {_listing(phrases[1:])}" if len(phrases) > 1 else ""
            text = f"{phrases[0]} {place}{rest}"
            return _finish(text if scenery is None else f"{text}, {on} {scenery}")
    text = _listing(phrases)
    if style == 1:
        verb = "are" if len(groups[0].centres) > 1 else "is"
        text = f"there {verb} {text}"
    elif style == 2 and scenery is not None:
        return _finish(f"{scenery} with {text}")
    return _finish(text if scenery is None else f"{text} {on} {scenery}")


def _finish(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def caption_tokens(raw: str) -> list[str]:
    """Lower-case words without punctuation, as in the Karpathy files.

    Examples
    --------
    >>> caption_tokens("A red star, on wood.")
    ['a', 'red', 'star', 'on', 'wood']
    """
    return re.findall(r"[a-z0-9'-]+", raw.lower())


def _shape(word: str) -> tuple[str, bool] | None:
    if word in _SHAPE_OF:
        return _SHAPE_OF[word], False
    if word in _PLURALS:
        return _PLURALS[word], True
    if word.endswith("s") and word[:-1] in _SHAPE_OF:
        return _SHAPE_OF[word[:-1]], True
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
        elif word in _COLOUR_OF:
            if after and found[-1][0] is None:
                found[-1] = (_COLOUR_OF[word], *found[-1][1:])
                after = False
            else:
                colours.append(_COLOUR_OF[word])
        elif word in _NUMBERS or word.isdigit():
            if not (word in ("a", "an", "the", "one") and colours):
                number = int(word) if word.isdigit() else _NUMBERS[word]
                after = False
        elif word == "and" and colours:
            continue  # "a red and a blue star"
        elif word in _FILLERS or (after and word in _LINKS):
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
