"""The scenes: same bytes everywhere, honest layout, captions with variety, an F1 that reads."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from lib.study.data import scenes
from lib.study.data.coco import read_karpathy
from lib.study.data.scene_captions import BACKGROUNDS, COLOURS, SHAPES, Rng, compose_caption
from lib.study.data.scenes import (
    SPLITS,
    captions,
    draw,
    ensure_scenes,
    karpathy,
    named_objects,
    object_f1,
    patch_labels,
    sample_scene,
    scene_seed,
)

# One seed a background: sha256 of the pixels. Whoever changes one raises `scenes.VERSION`.
PIXELS = {
    0: ("gradient", "6f934bb596c7e154"),
    1: ("bricks", "063dca2cd1dde602"),
    2: ("tiles", "00e750be2020dcbb"),
    3: ("grain", "28a113e4779e81a9"),
    4: ("dots", "42651409ae7c5e8a"),
    6: ("stripes", "177a4851c5ea7b63"),
    9: ("wood", "395ad3f35a68a147"),
    12: ("plain", "cd24774df0721a1e"),
    19: ("field", "32542dbde5dbc8be"),
    23: ("palace", "93b360512edabcf3"),
    26: ("flower", "b7f74c665716ebf8"),
    1_000_000_003: ("flower", "42f5676c4b61edb1"),
    2_000_000_999: ("grain", "f71246375505ce6b"),
}
WORDS = {
    0: "f352a3478572b595",
    15: "01c7ff9aa38cd600",
    1_000_000_003: "d57126fa91830232",
    2_000_000_999: "536cb5b899f9d583",
}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


@pytest.mark.parametrize("seed", PIXELS)
def test_pixels_are_the_published_bytes(seed):
    scene = sample_scene(seed)
    image = draw(scene)
    assert (scene.background, digest(image.tobytes())) == PIXELS[seed]
    assert image.shape == (224, 224, 3) and image.dtype == np.uint8


def test_every_background_has_a_checksum():
    assert {background for background, _ in PIXELS.values()} == set(BACKGROUNDS)
    assert scenes.VERSION == 1, "new version: update the checksums above"


@pytest.mark.parametrize("seed", WORDS)
def test_captions_are_the_published_words(seed):
    assert digest("\n".join(captions(sample_scene(seed))).encode()) == WORDS[seed]


def test_a_photograph_with_other_pixels_is_reported(monkeypatch):
    monkeypatch.setattr(scenes, "_PHOTOGRAPHS", {"china.jpg": "0" * 16})
    scenes._photograph.cache_clear()
    with pytest.warns(UserWarning, match="china.jpg decodes to other pixels"):
        scenes._photograph("china.jpg")
    scenes._photograph.cache_clear()


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


def test_pictures_have_quiet_areas():
    """A good part of a picture repeats itself: many patches hardly vary, on some backgrounds."""
    flat = []
    for seed in range(60):
        grey = draw(sample_scene(seed)).mean(-1).reshape(16, 14, 16, 14).transpose(0, 2, 1, 3)
        flat.append((grey.reshape(256, -1).std(1) < 8).mean())
    assert np.mean(flat) > 0.3


def test_splits_are_disjoint():
    seeds = {name: range(s.start, s.start + s.count) for name, s in SPLITS.items()}
    names = list(seeds)
    for i, a in enumerate(names):
        for b in names[:i]:
            assert not set(seeds[a]) & set(seeds[b])
    assert scene_seed("train", 999_999_999) < scene_seed("val", 0) < scene_seed("test", 0)
    assert SPLITS["test"].count == 1000
    pictures = [
        digest(draw(sample_scene(scene_seed(s, i))).tobytes()) for s in SPLITS for i in range(20)
    ]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize(
    ("split", "index", "message"),
    [("dev", 0, "unknown split 'dev'"), ("test", 1000, "outside split"), ("val", -1, "outside")],
)
def test_scene_seed_refuses(split, index, message):
    with pytest.raises(ValueError, match=message):
        scene_seed(split, index)


def test_patch_labels_show_every_object():
    for seed in range(200):
        scene = sample_scene(seed)
        labels = patch_labels(scene)
        assert labels.shape == (16, 16)
        # a small ring or cross may miss every patch's 12 pixels only when split four ways
        seen = set(np.unique(labels)) - {0}
        for number, item in enumerate(scene.objects, 1):
            x, y, w, _ = item.box
            if item.size != "small":
                assert number in seen
        for row, column in np.argwhere(labels):
            x, y, w, h = scene.objects[labels[row, column] - 1].box
            assert x < (column + 1) * 14 and x + w > column * 14
            assert y < (row + 1) * 14 and y + h > row * 14


# ---------------------------------------------------------------------------------------- captions


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


def test_rng_is_fair_and_repeats():
    rng = Rng(5)
    draws = [rng.below(6) for _ in range(6000)]
    assert min(Counter(draws).values()) > 850
    assert draws == [v for rng in [Rng(5)] for v in (rng.below(6) for _ in range(6000))]
    assert sorted(Rng(1).shuffled(range(9))) == list(range(9))
    picks = Counter(Rng(i).weighted((1, 0, 3)) for i in range(800))
    assert picks[1] == 0 and 2 < picks[2] / picks[0] < 4.5
    with pytest.raises(ValueError, match="positive integers"):
        Rng(0).weighted((2, -1))


# --------------------------------------------------------------------------------------- object F1


def things(*pairs):
    return [dict(zip(("colour", "shape"), pair.split())) for pair in pairs]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A red circle.", {("red", "circle"): 1}),
        ("Two small blue stars and a tiny scarlet disc.",
         {("blue", "star"): 2, ("red", "circle"): 1}),
        ("There are a trio of violet hoops above one golden box.",
         {("purple", "ring"): 3, ("yellow", "square"): 1}),
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
)  # fmt: skip
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


# ------------------------------------------------------------------------------------------- files


def test_karpathy_layout():
    listing = karpathy(splits={"val": 3, "test": 2})
    images = listing["images"]
    assert [image["split"] for image in images] == ["val"] * 3 + ["test"] * 2
    assert len({image["cocoid"] for image in images}) == 5
    assert [image["imgid"] for image in images] == list(range(5))
    sentences = [s for image in images for s in image["sentences"]]
    assert [s["sentid"] for s in sentences] == list(range(25))
    for image in images:
        assert image["sentids"] == [s["sentid"] for s in image["sentences"]]
        assert image["filepath"] == image["split"]
        for sentence in image["sentences"]:
            assert sentence["imgid"] == image["imgid"]
            assert sentence["raw"].endswith(".") and sentence["raw"][0].isupper()
            assert sentence["tokens"] == sentence["raw"].lower().strip(".").replace(",", "").split()
    assert json.loads(json.dumps(listing)) == listing


def test_ensure_scenes_draws_once_and_the_coco_reader_reads(tmp_path):
    listing = ensure_scenes("val", limit=3, progress=False, folder=tmp_path)
    drawn = sorted((tmp_path / "val").iterdir())
    assert [path.name for path in drawn] == [f"scene_val_{i:06d}.png" for i in range(3)]
    stamps = [path.stat().st_mtime_ns for path in drawn]
    drawn[1].unlink()  # a stopped call left one out
    assert ensure_scenes("val", limit=4, progress=False, folder=tmp_path) == listing
    again = [path.stat().st_mtime_ns for path in drawn]
    assert again[0] == stamps[0] and again[2] == stamps[2] and again[1] != stamps[1]
    assert not list(tmp_path.rglob("*.partial"))
    with Image.open(drawn[1]) as image:
        assert np.array_equal(np.asarray(image), draw(sample_scene(scene_seed("val", 1))))

    examples = read_karpathy(listing, "val", check_files=False)
    assert len(examples) == SPLITS["val"].count
    assert examples[0].path == drawn[0]
    assert examples[0].references == tuple(captions(sample_scene(scene_seed("val", 0))))
    assert examples[0].image_id == scenes.image_id("val", 0)


def test_ensure_scenes_redraws_what_another_version_drew(tmp_path):
    listing = ensure_scenes("val", limit=1, progress=False, folder=tmp_path)
    old = tmp_path / "val" / "scene_val_000000.png"
    old.write_bytes(b"of an older version")
    listing.write_text(listing.read_text().replace('"version":1', '"version":0', 1))
    ensure_scenes("val", limit=1, progress=False, folder=tmp_path)
    with Image.open(old) as image:
        assert image.size == (224, 224)
    assert '"version":1' in listing.read_text()[:64]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"split": "dev"}, "unknown split 'dev'"), ({"limit": -1}, "limit must not be negative"),
     ({"workers": 0}, "workers must be at least 1")],
)  # fmt: skip
def test_ensure_scenes_refuses(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        ensure_scenes(folder=tmp_path, progress=False, **options)
    assert not list(tmp_path.iterdir())
