"""COCO captions in Karpathy's split: reading, and downloading exactly the images of a split.

`python -m lib.study.data.coco` downloads what the paper's profile needs and nothing else.

Sources:
    - The split: A. Karpathy, L. Fei-Fei, "Deep visual-semantic alignments for generating image
      descriptions", CVPR 2015, arXiv:1412.2306.
    - Size and SHA-256 of its archive: TensorFlow Datasets, which recorded both
      (`tensorflow_datasets/url_checksums/coco_captions.txt` in github.com/tensorflow/datasets).
    - The image host: images.cocodataset.org is an S3 bucket and answers https with Amazon's own
      certificate, so its https address is the path-style one (github.com/mlcommons/inference,
      pull request 2572). There are no published checksums of single images; they are checked by
      size (Content-Length) and by decoding.
"""

import argparse
import json
import os
import random
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock, Timeout
from PIL import Image

from ..paths import raw_dir
from .http import (
    Client,
    DownloadError,
    InvalidContentError,
    Job,
    extract,
    fetch_archive,
    fetch_many,
    require_space,
)

KARPATHY_URL = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
KARPATHY_HASH = "sha256:4cfd70132527b80933105e5829dc9034eaab9573482e2e680abbab6130244817"
KARPATHY_BYTES = 36_745_453
#: dataset_coco.json unpacked, rounded up (directory listings in public READMEs show 144,186,139)
KARPATHY_JSON_BYTES = 145_000_000
IMAGES_URL = "https://s3.amazonaws.com/images.cocodataset.org"
#: mean size of an image: val2014.zip is 6,645,013,297 bytes (TensorFlow Datasets) for 40,504 images
IMAGE_BYTES = 164_058
#: images in each split (tensorflow.org/datasets/catalog/coco_captions)
SPLIT_SIZES = {"train": 82_783, "restval": 30_504, "val": 5_000, "test": 5_000}

LICENCE = (
    "COCO: the annotations are licensed CC BY 4.0 by the COCO Consortium. The images belong to "
    "their photographers and keep the licences chosen on Flickr, many of them non-commercial; "
    "whoever uses them must respect Flickr's terms. See https://cocodataset.org/#termsofuse.\n"
)

_LICENCE_FILE = "LICENCE.txt"
_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)2014_)?(\d{12})\.jpg")
_COCO_FOLDER = re.compile(r"(?:train|val|test)20(?:14|15|17)")
_BOOKKEEPING = {"split", "filepath", "filename", "cocoid", "imgid", "sentids", "sentences"}


@dataclass(frozen=True)
class Example:
    """One image and what people wrote about it.

    Attributes:
        image_id: COCO's id (or the data set's own, where there is none); unique in a split.
        path: the image file.
        references: the reference captions, stripped.
        extra: whatever else the data set says about the image, such as a generated scene's
            `objects`.
    """

    image_id: int
    path: Path
    references: tuple[str, ...]
    extra: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class _Entry:
    """An image as a JSON names it, before anyone looked for the file."""

    image_id: int
    folder: str
    name: str
    references: tuple[str, ...]
    extra: dict[str, Any]

    @property
    def relative(self) -> str:
        return f"{self.folder}/{self.name}" if self.folder else self.name


def coco_dir() -> Path:
    """The COCO folder: the one the environment variable `COCO_ROOT` names, else `data/raw/coco`."""
    return Path(os.environ.get("COCO_ROOT") or raw_dir() / "coco").expanduser()


def karpathy_json() -> Path:
    """Where `download` puts Karpathy's split, and where the profiles look for it."""
    own = raw_dir() / "coco" / "dataset_coco.json"
    given = coco_dir() / "dataset_coco.json"
    return given if given.exists() else own


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
        ValueError: if the JSON, the split or an image's entry is unusable.
    """
    json_path = Path(json_path)
    entries = _draw(_karpathy_entries(json_path, split), limit, random_state)
    return _resolve(entries, Path(image_root or json_path.parent), check_files)


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
    entries = _draw(_caption_entries(Path(json_path)), limit, random_state)
    return _resolve(entries, Path(image_root), check_files)


def missing_images(examples: Iterable[Example]) -> list[Example]:
    """The examples whose image file is not there (or empty)."""
    return [e for e in examples if not _present(e.path)]


def download(
    split: str = "test",
    *,
    image_root: str | Path | None = None,
    json_path: str | Path | None = None,
    limit: int | None = None,
    random_state: int = 0,
    json_url: str = KARPATHY_URL,
    json_hash: str | None = KARPATHY_HASH,
    images_url: str = IMAGES_URL,
    workers: int = 8,
    recheck: bool = False,
    progress: bool = True,
    client: Client | None = None,
) -> list[Example]:
    """Download Karpathy's split and exactly the images that `read_karpathy` would return.

    Everything is resumable: a second call fetches only what is missing, and a file has its final
    name only once it is whole and decodes. Images already in `image_root` are used where they lie.

    Args:
        split, limit, random_state: as in `read_karpathy`.
        image_root: where images are and go, by default `coco_dir()`.
        json_path: where the split is or goes, by default `karpathy_json()`.
        json_url, json_hash: the archive with dataset_coco.json, and its checksum in pooch's
            notation (None accepts any archive that holds a readable one).
        images_url: the folder that holds val2014/ and train2014/.
        workers: transfers at a time.
        recheck: decode the images that are already there, too, and replace broken ones.
        client: how to retry and wait, by default `Client()`.

    Raises:
        DownloadError: one message saying what is missing and how to resume.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    image_root = Path(image_root) if image_root is not None else coco_dir()
    json_path = Path(json_path) if json_path is not None else karpathy_json()
    client = client or Client(connections=workers)
    if not json_path.exists():
        with _only_one(json_path.parent):
            if not json_path.exists():
                _note_licence(json_path.parent)
                _download_json(client, json_path, json_url, json_hash, progress)
    entries = _draw(_karpathy_entries(json_path, split), limit, random_state)
    if _wanted(entries, image_root, recheck):
        with _only_one(image_root):
            wanted = _wanted(entries, image_root, recheck)  # another process may have worked
            if not (json_path.parent / _LICENCE_FILE).exists():
                _note_licence(image_root)
            require_space(image_root, 1.1 * IMAGE_BYTES * len(wanted))
            base = images_url.rstrip("/")
            jobs = [Job(f"{base}/{quote(e.relative)}", image_root / e.relative) for e in wanted]
            fetch_many(client, jobs, workers=workers, check=check_image, progress=progress)
    return _resolve(entries, image_root, check_files=True)


def check_image(path: Path) -> None:
    """Decode a whole image.

    Raises:
        InvalidContentError: if it is not one, or not all of one.
    """
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).replace(repr(str(path)), path.name).replace(str(path), path.name)
        raise InvalidContentError(f"not a readable image ({reason})") from error


def _download_json(client, json_path, url, known_hash, progress):
    """Fetch the archive, keep dataset_coco.json alone (the other splits are of other data sets)."""
    require_space(json_path.parent, KARPATHY_BYTES + KARPATHY_JSON_BYTES)
    archive = json_path.with_name("caption_datasets.zip")
    fetch_archive(client, url, archive, known_hash=known_hash, progress=progress)
    try:
        extract(archive, {"dataset_coco.json": json_path})
    finally:
        archive.unlink(missing_ok=True)  # unpacked, or damaged: either way of no further use


def _wanted(entries: Sequence[_Entry], root: Path, recheck: bool) -> list[_Entry]:
    """The entries whose image is not there, or (if `recheck`) not readable."""

    def right(entry):
        found = _find(root, entry)
        if found is not None and recheck:
            try:
                check_image(found)
            except InvalidContentError:
                return False
        return found is not None

    return [entry for entry in entries if not right(entry)]


def _only_one(folder: Path) -> FileLock:
    """One download a folder: a second process waits, then finds everything in place."""
    lock = FileLock(folder / ".download.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        lock.release()
    except Timeout:
        print(f"waiting for another download into {folder}", file=sys.stderr)
    except OSError as error:
        raise DownloadError(f"cannot write to {folder}: {error.strerror or error}") from error
    return lock


def _note_licence(folder: Path) -> None:
    note = folder / _LICENCE_FILE
    if not note.exists():
        print(LICENCE, end="", file=sys.stderr)
        note.write_text(LICENCE)


def _load_json(path: Path) -> dict:
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist. `make data PROFILE=paper` downloads Karpathy's split; "
            "COCO's own captions are at https://cocodataset.org/#download."
        )
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}). Delete it and fetch it again."
        ) from None
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        raise ValueError(f"{path} has no list `images`: neither Karpathy's layout nor COCO's")
    return document


def _karpathy_entries(path: Path, split: str) -> list[_Entry]:
    images = _load_json(path)["images"]
    counts = Counter(image.get("split") for image in images)
    asked = split.split("+")
    for name in asked:
        if name not in counts:
            have = ", ".join(f"{s} ({n} images)" for s, n in counts.most_common())
            raise ValueError(f"{path} has no split {name!r}; it has {have or 'no images'}")
    entries = []
    for image in images:
        if image.get("split") not in asked:
            continue
        name = image.get("filename")
        image_id = image.get("cocoid", image.get("imgid"))
        if not isinstance(name, str) or not isinstance(image_id, int):
            raise ValueError(
                f"{path}: an image lacks `filename` or `cocoid`/`imgid`: {_short(image)}"
            )
        captions = [sentence.get("raw", "") for sentence in image.get("sentences", [])]
        extra = {key: value for key, value in image.items() if key not in _BOOKKEEPING}
        entries.append(_Entry(image_id, image.get("filepath", ""), name, tuple(captions), extra))
    return _checked(entries, path)


def _caption_entries(path: Path) -> list[_Entry]:
    document = _load_json(path)
    captions: dict[int, list[str]] = {}
    for annotation in document.get("annotations", []):
        if "caption" not in annotation:
            raise ValueError(
                f"{path} holds annotations without `caption` (instances or keypoints?); "
                "use captions_val2014.json or its like"
            )
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    entries = []
    for image in document["images"]:
        name, image_id = image.get("file_name"), image.get("id")
        if not isinstance(name, str) or not isinstance(image_id, int):
            raise ValueError(f"{path}: an image lacks `file_name` or `id`: {_short(image)}")
        # COCO 2017's file names do not tell the folder; the image's address or the JSON's name does
        folder = _COCO_FOLDER.search(f"{name} {image.get('coco_url', '')} {path.name}")
        extra = {key: value for key, value in image.items() if key not in ("id", "file_name")}
        references = tuple(captions.pop(image_id, []))
        entries.append(_Entry(image_id, folder.group() if folder else "", name, references, extra))
    if captions:
        raise ValueError(
            f"{path}: captions of {len(captions)} images that it does not list, "
            f"the first being {next(iter(captions))}"
        )
    return _checked(entries, path)


def _checked(entries: Sequence[_Entry], path: Path) -> list[_Entry]:
    """Every image has a reference and an id of its own; blank captions are dropped aloud."""
    repeated = [i for i, n in Counter(entry.image_id for entry in entries).items() if n > 1]
    if repeated:
        raise ValueError(f"{path}: image id {repeated[0]} occurs more than once in the split")
    result, blank, bare = [], [], []
    for entry in entries:
        references = tuple(text.strip() for text in entry.references if text.strip())
        if not references:
            bare.append(entry.relative)
        elif len(references) < len(entry.references):
            blank.append(entry.relative)
        result.append(_Entry(entry.image_id, entry.folder, entry.name, references, entry.extra))
    if bare:
        raise ValueError(f"{path}: no reference captions for {_some(bare)}")
    if blank:
        warnings.warn(f"{path}: dropped blank captions of {_some(blank)}", stacklevel=4)
    return result


def _draw(entries: list[_Entry], limit: int | None, random_state: int) -> list[_Entry]:
    if limit is None:
        return entries
    if limit < 1:
        raise ValueError(f"limit must be at least 1 (or None for all), got {limit}")
    order = list(range(len(entries)))
    random.Random(random_state).shuffle(order)  # a prefix of one shuffle: larger limits only add
    return [entries[i] for i in sorted(order[:limit])]


def _resolve(entries: Sequence[_Entry], root: Path, check_files: bool) -> list[Example]:
    examples, missing = [], []
    for entry in entries:
        found = _find(root, entry)
        if found is None:
            missing.append(entry.relative)
        path = found or root / entry.relative
        examples.append(Example(entry.image_id, path, entry.references, entry.extra))
    if missing and check_files:
        raise FileNotFoundError(
            f"{len(missing)} of {len(entries)} images are missing below {root}: {_some(missing)}. "
            "For COCO, `make data PROFILE=paper` downloads what is missing, and COCO_ROOT may name "
            "a folder that holds val2014/ and train2014/ (or val2017/ and train2017/)."
        )
    return examples


def _find(root: Path, entry: _Entry) -> Path | None:
    """The entry's file below `root`, in whichever of COCO's layouts it lies."""
    names = [entry.relative, entry.name]
    if match := _COCO_NAME.fullmatch(entry.name):
        number = match.group(1)
        names += [f"{part}2014/COCO_{part}2014_{number}.jpg" for part in ("val", "train")]
        names += [f"{part}2017/{number}.jpg" for part in ("val", "train")]
    for name in names:
        for path in (root / name, root / "images" / name):
            if _present(path):
                return path
    return None


def _present(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _short(image: object) -> str:
    text = json.dumps(image)
    return text if len(text) <= 120 else text[:117] + "..."


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `python -m lib.study.data.coco`; 0 when everything is in place."""
    parser = argparse.ArgumentParser(
        prog="python -m lib.study.data.coco", description=download.__doc__.split("\n")[0]
    )
    parser.add_argument("--split", default="test", help="split to fetch (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="fetch a seeded subset of so many images")
    parser.add_argument("--random-state", type=int, default=0, help="seed of the subset")
    parser.add_argument("--image-root", help="COCO folder (default: $COCO_ROOT or data/raw/coco)")
    parser.add_argument("--json-path", help="where dataset_coco.json is or goes")
    parser.add_argument("--json-url", default=KARPATHY_URL, help="archive with dataset_coco.json")
    parser.add_argument("--json-hash", default=KARPATHY_HASH, help="its checksum, or 'none'")
    parser.add_argument(
        "--images-url", default=IMAGES_URL, help="folder of val2014/ and train2014/"
    )
    parser.add_argument("--workers", type=int, default=8, help="transfers at a time")
    parser.add_argument("--recheck", action="store_true", help="decode images already there, too")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)
    try:
        examples = download(
            args.split,
            image_root=args.image_root,
            json_path=args.json_path,
            limit=args.limit,
            random_state=args.random_state,
            json_url=args.json_url,
            json_hash=None if args.json_hash.lower() == "none" else args.json_hash,
            images_url=args.images_url,
            workers=args.workers,
            recheck=args.recheck,
            progress=not args.quiet,
        )
    except (DownloadError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; run the same command again to continue", file=sys.stderr)
        return 130
    print(f"{args.split}: {len(examples)} images in place below {examples[0].path.parent.parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
