"""What a caption names, and the F1 of it."""

from collections import Counter

import pytest

from lib.study.data.scenes import COLOURS, SHAPES, compose_caption, named_objects, object_f1


def things(*pairs):
    return [dict(zip(("colour", "shape"), pair.split())) for pair in pairs]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A red circle.", {("red", "circle"): 1}),
        (
            "Two small blue stars and a tiny scarlet disc.",
            {("blue", "star"): 2, ("red", "circle"): 1},
        ),
        (
            "There are a trio of violet hoops above one golden box.",
            {("purple", "ring"): 3, ("yellow", "square"): 1},
        ),
        ("3 green crosses", {("green", "cross"): 3}),
        ("green hearts on a white wall", {("green", "heart"): 2}),
        ("A star that is red and a moon in white.", {("red", "star"): 1, ("white", "moon"): 1}),
        ("A red and a blue star.", {("red", "star"): 1, ("blue", "star"): 1}),
        ("A star plus a ring, both black.", {(None, "star"): 1, (None, "ring"): 1}),
        ("A pink plus near an orange rhombus.", {("pink", "cross"): 1, ("orange", "diamond"): 1}),
        ("A red brick wall and a green field.", {}),
        ("A white background with a heart.", {(None, "heart"): 1}),
        ("Crescents, BLACK crescents!", {(None, "moon"): 2, ("black", "moon"): 2}),
        ("", {}),
    ],
)
def test_named_objects(caption, expected):
    assert dict(named_objects(caption)) == expected


def test_object_f1_by_hand():
    truth = things("red star", "red star", "blue ring")
    assert object_f1("Two red stars and a blue ring.", truth) == (1, 1, 1)
    assert object_f1("A red star and a blue ring.", truth) == (1, 2 / 3, 0.8)
    assert object_f1("Three red stars.", truth) == (2 / 3, 2 / 3, 2 / 3)
    assert object_f1("A green star.", truth) == (0, 0, 0)
    assert object_f1("A star and a ring.", truth) == (0, 0, 0)  # colour is part of the name
    assert object_f1("Nothing at all.", []) == (1, 1, 1)
    assert object_f1("A red star.", []) == (0, 0, 0)


def test_object_f1_refuses_unknown_truth():
    with pytest.raises(ValueError, match="unknown object 'mauve' 'star'"):
        object_f1("A star.", things("mauve star"))


def test_every_word_of_the_grammar_is_understood():
    for shape, nouns in SHAPES.items():
        for colour, names in COLOURS.items():
            for noun in nouns:
                for name in names:
                    assert named_objects(f"a {name} {noun}") == Counter({(colour, shape): 1})
    box = [10, 10, 12, 12]
    for shape in SHAPES:  # plurals, as composed
        pair = [{"shape": shape, "colour": "red", "size": "small", "box": box}] * 2
        for seed in range(12):
            assert object_f1(compose_caption(pair, "wood", random_state=seed), pair).f1 == 1
