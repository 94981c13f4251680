"""What a seed stands for: the splits, and the objects of a scene with their places."""

from __future__ import annotations

from typing import NamedTuple

from .rng import Rng
from .words import BACKGROUNDS, COLOURS, SHAPES

SIZE = 224  # pixels a side


class Split(NamedTuple):
    """First seed and number of images of a split."""

    start: int
    count: int


#: Disjoint seed ranges. Training draws more than the 2,000 scenes that the JSON lists: any seed
#: below the start of ``val`` belongs to ``train``.
SPLITS = {
    "train": Split(0, 2000),
    "val": Split(1_000_000_000, 500),
    "test": Split(2_000_000_000, 1000),
}

# (smallest, largest) diameter in pixels without the rim; a small one covers 1 to 4 patches.
_DIAMETERS = {"small": (10, 12), "medium": (22, 34), "large": (46, 70)}


class SceneObject(NamedTuple):
    """One object; ``box`` is (x, y, w, h) in pixels, rim included."""

    shape: str
    colour: str
    size: str
    box: tuple[int, int, int, int]

    def record(self) -> dict:
        """The object as plain JSON."""
        return {
            "shape": self.shape,
            "colour": self.colour,
            "size": self.size,
            "box": list(self.box),
        }


class Scene(NamedTuple):
    """What a seed stands for, before anything is drawn."""

    seed: int
    background: str
    objects: tuple[SceneObject, ...]


def scene_seed(split: str, index: int) -> int:
    """The seed of the ``index``-th scene of a split.

    Raises
    ------
    ValueError : unknown split, or an index outside its range of seeds.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    room = 1_000_000_000 if split == "train" else SPLITS[split].count
    if not 0 <= index < room:
        raise ValueError(f"index {index} lies outside split {split!r}: 0 <= index < {room}")
    return SPLITS[split].start + index


def image_id(split: str, index: int) -> int:
    """A positive id, unique over all splits (COCO's ``cocoid``)."""
    return scene_seed(split, index) + 1


def sample_scene(seed: int) -> Scene:
    """Choose background and objects from a seed.

    Objects never overlap and stay inside the picture. Two groups of one scene never share both
    shape and colour, so a caption names each unambiguously.

    Examples
    --------
    >>> scene = sample_scene(7)
    >>> len(scene.objects), scene.background
    (1, 'dots')
    """
    rng = Rng(seed * 4 + 1)
    background = list(BACKGROUNDS)[rng.weighted((10, 9, 10, 9, 9, 8, 9, 8, 8, 10, 10))]
    wanted = 1 + rng.weighted((10, 20, 25, 20, 15, 10))
    taken: set[tuple[str, str]] = set()
    plan: list[tuple[str, str, str]] = []
    large = 0
    while len(plan) < wanted:
        kind = rng.pick(list(SHAPES)), rng.pick(list(COLOURS))
        if kind in taken:
            continue
        taken.add(kind)
        size = ("small", "medium", "large")[rng.weighted((52, 28, 20))]
        if size == "large" and large == 2:
            size = "small"
        large += size == "large"
        count = 1 + rng.weighted((74, 17, 9)) if size != "large" else 1
        plan += [(*kind, size)] * min(count, wanted - len(plan))
    rank = {"large": 0, "medium": 1, "small": 2}
    plan.sort(key=lambda item: rank[item[2]])
    objects = None
    while objects is None:  # a large object in the middle can leave no room for a second one
        objects = _place_all(plan, rng)
    return Scene(seed, background, tuple(objects))


def _place_all(plan: list[tuple[str, str, str]], rng: Rng) -> list[SceneObject] | None:
    """Places for all objects, none overlapping; None when one found no room in 200 tries."""
    objects: list[SceneObject] = []
    for shape, colour, size in plan:
        side = rng.between(*_DIAMETERS[size]) + 2  # one pixel of rim all around
        for _ in range(200):
            x, y = rng.between(2, SIZE - 2 - side), rng.between(2, SIZE - 2 - side)
            if all(_apart((x, y, side, side), other.box) for other in objects):
                break
        else:
            return None
        objects.append(SceneObject(shape, colour, size, (x, y, side, side)))
    return objects


def _apart(a: tuple[int, int, int, int], b: tuple[int, int, int, int], gap: int = 5) -> bool:
    return (
        a[0] + a[2] + gap <= b[0]
        or b[0] + b[2] + gap <= a[0]
        or a[1] + a[3] + gap <= b[1]
        or b[1] + b[3] + gap <= a[1]
    )
