"""COCO captions in Karpathy's split: reading, and downloading exactly the images of a split.

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

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock, Timeout

from ..paths import raw_dir
from .captions import karpathy_entries, read_coco_captions, read_karpathy
from .examples import Entry, Example, choose, find, missing_images, place, resolve
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
from .images import ImageError, open_image

__all__ = [
    "Example",
    "check_image",
    "coco_dir",
    "download",
    "karpathy_json",
    "missing_images",
    "read_coco_captions",
    "read_karpathy",
]

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


def coco_dir() -> Path:
    """The COCO folder: the one the environment variable `COCO_ROOT` names, else `data/raw/coco`."""
    return Path(os.environ.get("COCO_ROOT") or raw_dir() / "coco").expanduser()


def karpathy_json() -> Path:
    """Where `download` puts Karpathy's split, and where the profiles look for it."""
    own = raw_dir() / "coco" / "dataset_coco.json"
    given = coco_dir() / "dataset_coco.json"
    return given if given.exists() else own


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
    entries = choose(karpathy_entries(json_path, split), limit, random_state)
    if _wanted(entries, image_root, recheck):
        with _only_one(image_root):
            wanted = _wanted(entries, image_root, recheck)  # another process may have worked
            if not (json_path.parent / _LICENCE_FILE).exists():
                _note_licence(image_root)
            require_space(image_root, 1.1 * IMAGE_BYTES * len(wanted))
            base = images_url.rstrip("/")
            jobs = [Job(f"{base}/{quote(e.relative)}", place(image_root, e)) for e in wanted]
            fetch_many(client, jobs, workers=workers, check=check_image, progress=progress)
    return resolve(entries, image_root, check_files=True)


def check_image(path: Path) -> None:
    """Decode a whole image.

    Raises:
        InvalidContentError: if it is not one, or not all of one.
    """
    try:
        open_image(path)
    except ImageError as error:
        raise InvalidContentError(f"not a readable image ({error.reason or error})") from error


def _download_json(client, json_path, url, known_hash, progress):
    """Fetch the archive, keep dataset_coco.json alone (the other splits are of other data sets)."""
    require_space(json_path.parent, KARPATHY_BYTES + KARPATHY_JSON_BYTES)
    archive = json_path.with_name("caption_datasets.zip")
    fetch_archive(client, url, archive, known_hash=known_hash, progress=progress)
    try:
        extract(archive, {"dataset_coco.json": json_path})
    finally:
        archive.unlink(missing_ok=True)  # unpacked, or damaged: either way of no further use


def _wanted(entries: Sequence[Entry], root: Path, recheck: bool) -> list[Entry]:
    """The entries whose image is not there, or (if `recheck`) not readable."""

    def right(entry):
        found = find(root, entry)
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
        note.write_text(LICENCE, encoding="utf-8")
