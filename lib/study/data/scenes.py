"""The embedded data set: scenes drawn from a seed, described in the Karpathy JSON format.

Every pixel is integer arithmetic on raw generator bits (no antialiasing of a drawing library, no
transcendental function), so a seed gives the same bytes on every machine. A scene holds one to six
objects, many of them small enough to fit in one to four 14-pixel patches, on a background with the
redundancy of a photograph: quiet areas, repeated texture, clutter that nobody mentions, or a crop
of one of the two photographs that scikit-learn ships.

Splits are disjoint ranges of seeds; ``test`` has 1,000 images. Nothing drawn is committed.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..paths import raw_dir
from .scene_captions import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    ObjectScore,
    Rng,
    caption_tokens,
    compose_caption,
    named_objects,
    object_f1,
)

__all__ = [
    "SIZE",
    "SPLITS",
    "ObjectScore",
    "Scene",
    "SceneObject",
    "captions",
    "draw",
    "ensure_scenes",
    "image_id",
    "karpathy",
    "named_objects",
    "object_f1",
    "patch_labels",
    "sample_scene",
    "scene_seed",
]

SIZE = 224  # pixels a side
PATCH = 14  # pixels a side of the model's patch
CAPTIONS = 5  # reference captions an image
#: Raise it with every change of a pixel or a word: what was drawn before is then drawn again.
VERSION = 1


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

_RGB = {
    "red": (212, 28, 36),
    "orange": (246, 132, 18),
    "yellow": (250, 222, 40),
    "green": (24, 160, 56),
    "blue": (30, 76, 216),
    "purple": (122, 40, 168),
    "pink": (250, 128, 186),
    "white": (250, 250, 250),
    "black": (16, 16, 18),
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


# ---------------------------------------------------------------------------------- what is there


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


# ----------------------------------------------------------------------------------- how it looks


def _inside(polygon: tuple[tuple[int, int], ...], u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Even-odd test of integer points in an integer polygon."""
    inside = np.zeros(np.broadcast_shapes(u.shape, v.shape), bool)
    for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1]):
        if y0 == y1:
            continue
        crosses = (v >= min(y0, y1)) & (v < max(y0, y1))
        left = (u - x0) * (y1 - y0) < (v - y0) * (x1 - x0)
        inside ^= crosses & (left if y1 > y0 else ~left)
    return inside


# Unit shapes in thousandths of the half-side, y downwards.
_TRIANGLE = ((0, -980), (980, 850), (-980, 850))
_STAR = (
    (0, -1000),
    (259, -357),
    (951, -309),
    (419, 136),
    (588, 809),
    (0, 440),
    (-588, 809),
    (-419, 136),
    (-951, -309),
    (-259, -357),
)
_HEART = ((-930, -170), (0, -420), (930, -170), (0, 960))


@cache
def _coverage(shape: str, side: int) -> np.ndarray:
    """How much of each pixel a shape covers, (side, side) int16 in 0…256, from 8 × 8 samples."""
    over = 8
    steps = (2 * np.arange(side * over, dtype=np.int64) + 1 - side * over) * 1000 // (side * over)
    u, v = steps[None, :], steps[:, None]
    r2 = u * u + v * v
    match shape:
        case "circle":
            hit = r2 <= 940_000
        case "ring":
            hit = (r2 <= 1_000_000) & (r2 >= 300_000)
        case "square":
            hit = (abs(u) <= 880) & (abs(v) <= 880)
        case "diamond":
            hit = 10 * abs(u) + 7 * abs(v) <= 7000
        case "cross":
            hit = (abs(u) <= 310) | (abs(v) <= 310)
        case "moon":
            hit = (r2 <= 1_000_000) & ((u - 480) ** 2 + v * v > 640_000)
        case "triangle":
            hit = _inside(_TRIANGLE, u, v)
        case "star":
            hit = _inside(_STAR, u, v)
        case "heart":
            lobes = (abs(u) - 480) ** 2 + (v + 380) ** 2 <= 260_000
            hit = lobes | _inside(_HEART, u, v)
        case _:
            raise ValueError(f"unknown shape {shape!r}: use one of {', '.join(SHAPES)}")
    return hit.reshape(side, over, side, over).sum((1, 3)).astype(np.int16) * np.int16(4)


def _paint(canvas: np.ndarray, cover: np.ndarray, x: int, y: int, rgb: tuple[int, ...]) -> None:
    """Blend a colour into an int16 canvas where ``cover`` (0…256) says so; clips to the canvas."""
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + cover.shape[1], SIZE), min(y + cover.shape[0], SIZE)
    if x0 >= x1 or y0 >= y1:
        return
    window = canvas[y0:y1, x0:x1]
    part = cover[y0 - y : y1 - y, x0 - x : x1 - x, None].astype(np.int32)
    window += ((np.array(rgb, np.int32) - window) * part >> 8).astype(np.int16)


def _noise(seed: int, stream: int, count: int) -> np.ndarray:
    """``count`` uniform bytes as int16; PCG64's raw output is guaranteed never to change."""
    words = np.random.PCG64(seed * 16 + stream).random_raw((count + 7) // 8)
    return words.astype("<u8").view(np.uint8)[:count].astype(np.int16)


def _smooth(seed: int, stream: int, cell: int, *, stretch: int = 1) -> np.ndarray:
    """Bilinear value noise, (SIZE, SIZE) int16 in 0…255, by whole-number interpolation."""
    rows, cols = SIZE // cell + 2, SIZE // (cell * stretch) + 2
    grid = _noise(seed, stream, rows * cols).reshape(rows, cols).astype(np.int32)
    i = np.arange(SIZE)
    q, f = i // cell, (i % cell)[:, None]
    lines = grid[q] * (cell - f) + grid[q + 1] * f
    wide = cell * stretch
    q, f = i // wide, i % wide
    return ((lines[:, q] * (wide - f) + lines[:, q + 1] * f) // (cell * wide)).astype(np.int16)


def _muted(rng: Rng, low: int = 96, high: int = 200, spread: int = 20) -> np.ndarray:
    """A colour of low saturation, far from every object's."""
    grey = rng.between(low, high)
    return np.array([grey + rng.between(-spread, spread) for _ in range(3)], np.int16)


@cache
def _photograph(name: str) -> np.ndarray:
    """One of scikit-learn's two photographs, (427, 640, 3) uint8."""
    from sklearn.datasets import load_sample_image

    photo = np.ascontiguousarray(load_sample_image(name), np.uint8)
    digest = hashlib.sha256(photo.tobytes()).hexdigest()
    if not digest.startswith(_PHOTOGRAPHS[name]):
        # libjpeg-turbo, which Pillow's wheels and conda builds carry, decodes to these bytes.
        warnings.warn(
            f"{name} decodes to other pixels here (sha256 {digest[:16]}): scenes on that "
            "photograph will differ by rounding; a Pillow built with libjpeg-turbo gives "
            "the published bytes",
            stacklevel=2,
        )
    return photo


_PHOTOGRAPHS = {"china.jpg": "e701459344fd6979", "flower.jpg": "3202904ed246795b"}


def _ground(scene: Scene, rng: Rng) -> np.ndarray:
    """The background, (SIZE, SIZE, 3) int16."""
    seed = scene.seed
    y, x = np.arange(SIZE, dtype=np.int16)[:, None], np.arange(SIZE, dtype=np.int16)[None, :]
    base = _muted(rng)
    other = base + np.int16(rng.pick((-34, -26, 26, 34)))
    zero = np.zeros((SIZE, SIZE), np.int16)

    def tone(level: np.ndarray, low: np.ndarray = base, high: np.ndarray = other) -> np.ndarray:
        """Blend two colours by a level of 0…256 (their differences are small: int16 suffices)."""
        out = np.empty((SIZE, SIZE, 3), np.int16)
        for channel in range(3):
            out[..., channel] = low[channel] + ((high[channel] - low[channel]) * level >> 8)
        return out

    match scene.background:
        case "plain":
            return tone(zero)
        case "gradient":
            a, b = rng.between(-4, 4), rng.between(-4, 4)
            ramp = (a * x + b * y).astype(np.int32)
            ramp = ramp - ramp.min()
            return tone(ramp * 256 // max(int(ramp.max()), 1))
        case "grain":
            return tone(
                _noise(seed, 1, SIZE * SIZE).reshape(SIZE, SIZE) * np.int16(2) // 3
                + _smooth(seed, 2, 28) // 3
            )
        case "stripes":
            width, turn = rng.between(6, 20), rng.below(3)
            phase = (x + zero, y + zero, x + y)[turn]
            return tone((phase // width % 2) * np.int16(256))
        case "tiles":
            width = rng.between(12, 30)
            return tone(((x // width + y // width) % 2) * np.int16(256))
        case "dots":
            step = rng.between(12, 24)
            radius = rng.between(2, 4)
            u = (x + (y // step % 2) * (step // 2)) % step - step // 2
            v = y % step - step // 2
            return tone((u * u + v * v <= radius * radius).astype(np.int16) * np.int16(256))
        case "bricks":
            height = rng.between(12, 22)
            row = y // height
            column = (x + (row % 2) * height) // (2 * height)
            mortar = (y % height < 2) | ((x + (row % 2) * height) % (2 * height) < 2)
            shade = _noise(seed, 3, 4096)[(row * 37 + column) % 4096] // 2
            return tone(np.where(mortar, np.int16(256), shade // 2))
        case "wood":
            rings = _smooth(seed, 4, 12, stretch=6) * np.int16(3) + y
            level = abs(rings % 64 - 32) * np.int16(7)
            grain = np.array([26, 2, -30], np.int16)
            return tone(level, base + grain, other + grain)
        case "field":
            horizon = rng.between(80, 150)
            sky = np.array([150, 178, 204], np.int16) + np.int16(rng.between(-14, 14))
            grass = np.array([92, 112, 74], np.int16) + np.int16(rng.between(-12, 12))
            low = tone(
                _noise(seed, 5, SIZE * SIZE).reshape(SIZE, SIZE), grass, grass + np.int16(40)
            )
            high = tone((256 - y * 256 // SIZE) + zero, sky + np.int16(26), sky)
            return np.where((y < horizon)[..., None], high, low)
        case "flower" | "palace":
            photo = _photograph("flower.jpg" if scene.background == "flower" else "china.jpg")
            top = rng.below(photo.shape[0] - SIZE + 1)
            left = rng.below(photo.shape[1] - SIZE + 1)
            crop = photo[top : top + SIZE, left : left + SIZE].astype(np.int16)
            if rng.chance(50):
                crop = crop[:, ::-1]
            # A hazier print: contrast of 9/16 to 12/16 about a mid grey.
            return 128 + ((crop - 128) * np.int16(rng.between(9, 12)) >> 4)
        case _:
            raise ValueError(
                f"unknown background {scene.background!r}: use one of {', '.join(BACKGROUNDS)}"
            )


def _clutter(canvas: np.ndarray, rng: Rng) -> None:
    """Pebbles and scratches in muted tones: unlike their surroundings, and never mentioned."""
    for _ in range(rng.between(3, 10)):
        x, y = rng.below(SIZE), rng.below(SIZE)
        tint = tuple(int(v) for v in _muted(rng, 70, 200, 8))
        if rng.chance(55):
            _paint(canvas, _coverage("circle", rng.between(3, 7)) * np.int16(3) // 4, x, y, tint)
        else:
            length = rng.between(6, 22)
            shape = (1, length) if rng.chance(50) else (length, 1)
            _paint(canvas, np.full(shape, 180, np.int16), x, y, tint)


def draw(scene: Scene) -> np.ndarray:
    """Draw a scene.

    Returns
    -------
    (224, 224, 3) uint8 array, the same bytes on every machine.

    Examples
    --------
    >>> image = draw(sample_scene(7))
    >>> image.shape, image.dtype.name
    ((224, 224, 3), 'uint8')
    """
    rng = Rng(scene.seed * 4 + 3)
    canvas = np.ascontiguousarray(_ground(scene, rng), np.int16)
    if rng.chance(45):  # a shadow or a light from one side
        light = _smooth(scene.seed, 6, 112) // np.int16(8) - np.int16(16)
        for channel in range(3):
            canvas[..., channel] += light
    np.clip(canvas, 24, 236, out=canvas)
    if rng.chance(45):
        _clutter(canvas, rng)
    for item in scene.objects:
        x, y, side, _ = item.box
        rgb = tuple(min(255, max(0, v + rng.between(-9, 9))) for v in _RGB[item.colour])
        rim = (200, 200, 204) if item.colour in ("black", "purple", "blue") else (48, 46, 50)
        _paint(canvas, _coverage(item.shape, side), x, y, rim)
        _paint(canvas, _coverage(item.shape, side - 2), x + 1, y + 1, rgb)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def patch_labels(scene: Scene, patch: int = PATCH) -> np.ndarray:
    """What each patch shows: object index + 1, or 0 for background.

    A patch belongs to the object that covers most of it, if that is at least 12 pixels.

    Returns
    -------
    (SIZE / patch, SIZE / patch) int64 array.
    """
    cells = SIZE // patch
    best = np.full((cells, cells), 12 * 256 - 1, np.int64)
    labels = np.zeros((cells, cells), np.int64)
    for number, item in enumerate(scene.objects, start=1):
        x, y, side, _ = item.box
        x0, y0 = x // patch, y // patch
        x1, y1 = (x + side - 1) // patch + 1, (y + side - 1) // patch + 1
        area = np.zeros(((y1 - y0) * patch, (x1 - x0) * patch), np.int64)
        area[y - y0 * patch :, x - x0 * patch :][:side, :side] = _coverage(item.shape, side)
        share = area.reshape(y1 - y0, patch, x1 - x0, patch).sum((1, 3))
        window = best[y0:y1, x0:x1]
        labels[y0:y1, x0:x1][share > window] = number
        np.maximum(window, share, out=window)
    return labels


# ----------------------------------------------------------------------------------- what is kept


def karpathy(*, splits: dict[str, int] | None = None) -> dict:
    """The data set in the layout of Karpathy's ``dataset_coco.json``.

    Parameters
    ----------
    splits : number of images a split; all of :data:`SPLITS` by default.

    Returns
    -------
    ``{"dataset", "version", "images": [{"filepath", "filename", "split", "imgid", "cocoid",
    "sentids", "sentences": [{"tokens", "raw", "imgid", "sentid"}], "objects", "background"}]}``.
    The last two keys are ours: the ground truth for :func:`object_f1`.
    """
    images = []
    sentence = 0
    for split, count in (splits or {name: s.count for name, s in SPLITS.items()}).items():
        for index in range(count):
            scene = sample_scene(scene_seed(split, index))
            number = len(images)
            sentences = [
                {"tokens": caption_tokens(raw), "raw": raw, "imgid": number, "sentid": sentence + j}
                for j, raw in enumerate(captions(scene))
            ]
            images.append(
                {
                    "filepath": split,
                    "filename": _filename(split, index),
                    "split": split,
                    "imgid": number,
                    "cocoid": image_id(split, index),
                    "sentids": [item["sentid"] for item in sentences],
                    "sentences": sentences,
                    "objects": [item.record() for item in scene.objects],
                    "background": scene.background,
                }
            )
            sentence += len(sentences)
    return {"dataset": "scenes", "version": VERSION, "images": images}


def _is_current(listing: Path) -> bool:
    """Whether a listing was written by this version of the generator."""
    if not listing.is_file():
        return False
    with listing.open() as file:
        return file.read(64).startswith(f'{{"dataset":"scenes","version":{VERSION},')


def _filename(split: str, index: int) -> str:
    return f"scene_{split}_{index:06d}.png"


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the target and rename, so that a kill leaves no half-written file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _draw_to(folder: Path, split: str, index: int) -> None:
    image = Image.fromarray(draw(sample_scene(scene_seed(split, index))))
    _write_atomically(
        folder / split / _filename(split, index),
        partial(image.save, format="PNG", compress_level=1),
    )


def ensure_scenes(
    split: str = "test",
    *,
    limit: int | None = None,
    progress: bool = True,
    folder: Path | None = None,
    workers: int = 2,
) -> Path:
    """Draw a split on first use and return the path of its Karpathy JSON.

    Images that exist are left alone, so a stopped call continues. Files appear atomically.

    Parameters
    ----------
    split : ``"train"``, ``"val"`` or ``"test"``.
    limit : only the first ``limit`` images.
    progress : show a progress bar.
    folder : where to draw; ``data/raw/scenes`` by default.
    workers : threads.

    Returns
    -------
    Path of ``dataset_scenes.json``; an image lies in ``<folder>/<filepath>/<filename>``.

    Raises
    ------
    ValueError : unknown split, a negative limit, or no workers.
    """
    from tqdm.auto import tqdm

    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    if limit is not None and limit < 0:
        raise ValueError(f"limit must not be negative, got {limit}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    folder = Path(folder) if folder is not None else raw_dir() / "scenes"
    listing = folder / "dataset_scenes.json"
    if not _is_current(listing):
        for old in folder.glob("*/scene_*.png"):  # of another version: other pictures
            old.unlink(missing_ok=True)
        text = json.dumps(karpathy(), separators=(",", ":"))
        _write_atomically(listing, lambda path: path.write_text(text))
    count = SPLITS[split].count if limit is None else min(limit, SPLITS[split].count)
    missing = [i for i in range(count) if not (folder / split / _filename(split, i)).is_file()]
    if missing:
        bar = tqdm(total=len(missing), desc=f"drawing {split} scenes", disable=not progress)
        # Threads: numpy and PNG compression release the interpreter's lock most of the time.
        with bar, ThreadPoolExecutor(workers) as pool:
            for _ in pool.map(partial(_draw_to, folder, split), missing):
                bar.update()
    return listing
