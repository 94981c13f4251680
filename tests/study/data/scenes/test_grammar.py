"""Captions with variety that tell the truth."""

import hashlib
from collections import Counter

import numpy as np
import pytest

from lib.study.data.scenes import captions, named_objects, object_f1, sample_scene

WORDS = {
    0: "f352a3478572b595",
    15: "01c7ff9aa38cd600",
    1_000_000_003: "d57126fa91830232",
    2_000_000_999: "536cb5b899f9d583",
}


@pytest.mark.parametrize("seed", WORDS)
def test_captions_are_the_published_words(seed):
    words = "\n".join(captions(sample_scene(seed))).encode()
    assert hashlib.sha256(words).hexdigest()[:16] == WORDS[seed]


@pytest.fixture(scope="module")
def described():
    return [(scene, captions(scene)) for scene in map(sample_scene, range(2000, 2400))]


def test_captions_vary(described):
    distinct = np.mean([len(set(five)) for _, five in described])
    assert distinct > 4.95
    every = [text for _, five in described for text in five]
    words = Counter(word for text in every for word in text.lower().strip(".").split())
    assert len(words) > 90
    assert len({" ".join(text.split()[:3]) for text in every}) > 300
    lengths = [len(text.split()) for text in every]
    assert 10 < np.mean(lengths) < 20 and np.std(lengths) > 4
    for clue in ("to the left of", "above", "corner", "a pair of", "There is", " with ", "tiny"):
        assert sum(clue in text for text in every) > 10, clue


def test_captions_tell_the_truth(described):
    """Nothing is named that is not there; people leave out small things now and then."""
    scores = [
        object_f1(text, [item.record() for item in scene.objects])
        for scene, five in described
        for text in five
    ]
    assert {score.precision for score in scores} == {1.0}
    complete = np.mean([score.recall == 1 for score in scores])
    assert 0.9 < complete < 1


# phrase: axis, and the sign of (second - first) along it
RELATIONS = {
    " to the left of ": (0, 1),
    " to the right of ": (0, -1),
    " above ": (1, 1),
    " below ": (1, -1),
}


def test_relations_hold(described):
    checked = 0
    for scene, five in described:
        for text in five:
            text = text.replace("rass below a clear sky", "rass")
            for phrase, (axis, sign) in RELATIONS.items():
                if phrase not in text:
                    continue
                left, right = text.split(phrase)
                (one,), (two,) = named_objects(left), named_objects(right.split(",")[0])
                for a in scene.objects:
                    for b in scene.objects:
                        if (a.colour, a.shape) == one and (b.colour, b.shape) == two:
                            centre = [o.box[axis] + o.box[axis + 2] // 2 for o in (a, b)]
                            assert sign * (centre[1] - centre[0]) > 0, text
                            checked += 1
    assert checked > 100
