"""Captions of a scene, composed from a small grammar.

Synonyms, several orders, relations, places and levels of detail: five captions of one scene read
like five people.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from .layout import Scene
from .rng import Rng
from .words import BACKGROUNDS, COLOURS, COUNTS, PLACES, SHAPES, SIZES

#: Reference captions of an image.
CAPTIONS = 5


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
    return " ".join([rng.pick(COUNTS[count]), *words])


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


def captions(scene: Scene, count: int = CAPTIONS, *, first: int = 0) -> list[str]:
    """``count`` captions of a scene, distinct where the scene gives enough to say.

    Caption j depends on the seed, on j and on the captions before it back to ``first``.
    """
    objects = [item.record() for item in scene.objects]
    said: list[str] = []
    for number in range(first, first + count):
        for attempt in range(8):
            text = compose_caption(
                objects,
                scene.background,
                random_state=((scene.seed * 1000 + number) * 8 + attempt) * 4 + 2,
            )
            if text not in said:
                break
        said.append(text)
    return said
