"""The scenes as a data set on disk, in the layout of Karpathy's JSON."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image
from tqdm.auto import tqdm

from ...files import write_atomically
from ...paths import raw_dir
from .drawing import draw
from .grammar import captions
from .layout import SPLITS, image_id, sample_scene, scene_seed
from .reading import caption_tokens

#: Raise it with every change of a pixel or a word: what was drawn before is then drawn again.
VERSION = 1


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
    with listing.open(encoding="utf-8") as file:
        return file.read(64).startswith(f'{{"dataset":"scenes","version":{VERSION},')


def _filename(split: str, index: int) -> str:
    return f"scene_{split}_{index:06d}.png"


def _draw_to(folder: Path, split: str, index: int) -> None:
    stream = io.BytesIO()
    image = Image.fromarray(draw(sample_scene(scene_seed(split, index))))
    image.save(stream, format="PNG", compress_level=1)
    write_atomically(folder / split / _filename(split, index), stream.getvalue(), durable=False)


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
        write_atomically(listing, json.dumps(karpathy(), separators=(",", ":")))
    count = SPLITS[split].count if limit is None else min(limit, SPLITS[split].count)
    missing = [i for i in range(count) if not (folder / split / _filename(split, i)).is_file()]
    if missing:
        bar = tqdm(total=len(missing), desc=f"drawing {split} scenes", disable=not progress)
        # Threads: numpy and PNG compression release the interpreter's lock most of the time.
        with bar, ThreadPoolExecutor(workers) as pool:
            for _ in pool.map(partial(_draw_to, folder, split), missing):
                bar.update()
    return listing
