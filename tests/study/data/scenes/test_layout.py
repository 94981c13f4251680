"""Honest layouts, and splits that share no seed."""

import hashlib
from collections import Counter

import pytest

from lib.study.data.scenes import SPLITS, draw, sample_scene, scene_seed


def test_layout_one_to_six_objects_inside_and_apart():
    sizes, small_patches, counts = Counter(), Counter(), Counter()
    for seed in range(600):
        objects = sample_scene(seed).objects
        counts[len(objects)] += 1
        assert len({(o.shape, o.colour) for o in objects}) == len(
            {(o.shape, o.colour, o.size) for o in objects}
        )
        for i, item in enumerate(objects):
            x, y, w, h = item.box
            assert min(x, y) >= 0 and max(x + w, y + h) <= 224
            sizes[item.size] += 1
            if item.size == "small":
                across, down = (x + w - 1) // 14 - x // 14 + 1, (y + h - 1) // 14 - y // 14 + 1
                small_patches[across * down] += 1
            for other in objects[:i]:
                a, b, c, d = other.box
                assert x >= a + c or a >= x + w or y >= b + d or b >= y + h
    assert set(counts) == {1, 2, 3, 4, 5, 6}
    assert set(small_patches) <= {1, 2, 4}
    assert sizes["small"] > sizes["medium"] > sizes["large"] > 0


def test_a_crowded_layout_starts_afresh():
    # Its first large object lies in the middle, where it leaves no room for the second.
    assert len(sample_scene(156_547).objects) >= 2


def test_splits_are_disjoint():
    seeds = {name: range(s.start, s.start + s.count) for name, s in SPLITS.items()}
    names = list(seeds)
    for i, a in enumerate(names):
        for b in names[:i]:
            assert not set(seeds[a]) & set(seeds[b])
    assert scene_seed("train", 999_999_999) < scene_seed("val", 0) < scene_seed("test", 0)
    assert SPLITS["test"].count == 1000
    pictures = [
        hashlib.sha256(draw(sample_scene(scene_seed(s, i))).tobytes()).hexdigest()
        for s in SPLITS
        for i in range(20)
    ]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize(
    ("split", "index", "message"),
    [("dev", 0, "unknown split 'dev'"), ("test", 1000, "outside split"), ("val", -1, "outside")],
)
def test_scene_seed_refuses(split, index, message):
    with pytest.raises(ValueError, match=message):
        scene_seed(split, index)
