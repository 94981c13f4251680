"""Reading captions: Karpathy's JSON layout (COCO's split, Flickr's, the scenes') and COCO's own.

A null stands for nothing at all: a caption of null is dropped as a blank one is, aloud.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from .checks import REMEDY, complete, each, entry_of, load_json, objects, short, value_of
from .examples import Entry, Example, choose, resolve

__all__ = ["karpathy_entries", "read_coco_captions", "read_karpathy"]

_COCO_FOLDER = re.compile(r"(?:train|val|test)20(?:14|15|17)")
_BOOKKEEPING = {"split", "filepath", "filename", "cocoid", "imgid", "sentids", "sentences"}


def read_karpathy(
    json_path: str | Path,
    split: str,
    *,
    image_root: str | Path | None = None,
    limit: int | None = None,
    random_state: int = 0,
    check_files: bool = True,
) -> list[Example]:
    """Read one split of a data set in Karpathy's JSON layout (COCO's, or the generated scenes').

    Args:
        json_path: a file with `images`, each with `split`, `filename`, `sentences[].raw` and, where
            they apply, `filepath` and `cocoid`.
        split: "train", "restval", "val" or "test"; "train+restval" joins two.
        image_root: folder that holds `filepath`/`filename`, by default the JSON's own. A COCO
            folder in either layout will do (val2014/COCO_val2014_000000391895.jpg or
            val2017/000000391895.jpg, also below images/): the images are the same.
        limit: at most so many images, drawn with `random_state`, in the file's order. A larger
            limit with the same seed contains the smaller one's images.
        check_files: False skips looking for the image files.

    Raises:
        FileNotFoundError: if the JSON or images are missing; the first five are named.
        ValueError: if the JSON, the split or an image's entry is unusable: of another type than
            expected, not UTF-8 text, without captions, or a file name that leads out of its folder.
    """
    json_path = Path(json_path)
    entries = choose(karpathy_entries(json_path, split), limit, random_state)
    return resolve(entries, Path(image_root or json_path.parent), check_files)


def read_coco_captions(
    json_path: str | Path,
    image_root: str | Path,
    *,
    limit: int | None = None,
    random_state: int = 0,
    check_files: bool = True,
) -> list[Example]:
    """Read COCO's own captions: annotations/captions_val2014.json, captions_val2017.json, ...

    `image_root`, `limit`, `random_state`, `check_files` and the errors: see `read_karpathy`.
    """
    entries = choose(_coco_entries(Path(json_path)), limit, random_state)
    return resolve(entries, Path(image_root), check_files)


# ------------------------------------------------------------------------------------- two layouts


def karpathy_entries(path: Path, split: str, *, remedy: str = REMEDY) -> list[Entry]:
    """The entries of a split, checked; `read_karpathy` says how the file looks, and the errors.

    remedy: how to get the file, for the error where it is missing.
    """
    images = objects(load_json(path, remedy), "images", path)
    splits = each(images, lambda image: value_of(image, "split", str), path)
    counts, asked = Counter(splits), split.split("+")
    for name in asked:
        if name not in counts:
            have = ", ".join(f"{s} ({n} images)" for s, n in counts.most_common())
            raise ValueError(f"{path} has no split {name!r}; it has {have or 'no images'}")
    return complete(
        each([i for i, its in zip(images, splits) if its in asked], _karpathy_entry, path), path
    )


def _karpathy_entry(image: dict) -> Entry:
    name, image_id = value_of(image, "filename", str), value_of(image, "cocoid", int)
    image_id = value_of(image, "imgid", int) if image_id is None else image_id
    if name is None or image_id is None:
        raise ValueError("lacks `filename` or `cocoid`/`imgid`")
    captions = []
    for sentence in value_of(image, "sentences", list) or []:
        if not isinstance(sentence, dict | None):
            raise ValueError(f"a sentence is {short(sentence)}, not an object with `raw`")
        captions.append(value_of(sentence or {}, "raw", str) or "")
    extra = {key: value for key, value in image.items() if key not in _BOOKKEEPING}
    return entry_of(image_id, value_of(image, "filepath", str) or "", name, captions, extra)


def _coco_entries(path: Path) -> list[Entry]:
    document = load_json(path)
    images, captions = objects(document, "images", path), {}
    annotations = objects(document, "annotations", path)
    if any("caption" not in annotation for annotation in annotations):
        raise ValueError(
            f"{path} holds annotations without `caption` (instances or keypoints?); "
            "use captions_val2014.json or its like"
        )
    for image_id, text in each(annotations, _caption, path):
        captions.setdefault(image_id, []).append(text)
    entries = each(images, partial(_coco_entry, captions=captions, source=path.name), path)
    listed = {entry.image_id for entry in entries}
    if stray := [image_id for image_id in captions if image_id not in listed]:
        raise ValueError(
            f"{path}: captions of {len(stray)} images that it does not list, "
            f"the first being {stray[0]}"
        )
    return complete(entries, path)


def _caption(annotation: dict) -> tuple[int, str]:
    image_id = value_of(annotation, "image_id", int)
    if image_id is None:
        raise ValueError("an annotation lacks `image_id`")
    return image_id, value_of(annotation, "caption", str) or ""


def _coco_entry(image: dict, *, captions: Mapping[int, Sequence[str]], source: str) -> Entry:
    name, image_id = value_of(image, "file_name", str), value_of(image, "id", int)
    if name is None or image_id is None:
        raise ValueError("lacks `file_name` or `id`")
    # COCO 2017's file names do not tell the folder; the image's address or the JSON's name does
    folder = _COCO_FOLDER.search(f"{name} {image.get('coco_url', '')} {source}")
    extra = {key: value for key, value in image.items() if key not in ("id", "file_name")}
    return entry_of(
        image_id, folder.group() if folder else "", name, captions.get(image_id, ()), extra
    )
