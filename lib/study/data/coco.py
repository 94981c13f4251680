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
from pathlib import Path
from urllib.parse import quote

from ..paths import raw_dir
from .captions import karpathy_entries, read_coco_captions, read_karpathy
from .examples import Example, choose, missing_images, resolve
from .fetching import Archive, check_image, fetch_split
from .http import Client

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

LIST = "dataset_coco.json"
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


def coco_dir() -> Path:
    """The COCO folder: the one the environment variable `COCO_ROOT` names, else `data/raw/coco`."""
    return Path(os.environ.get("COCO_ROOT") or raw_dir() / "coco").expanduser()


def karpathy_json() -> Path:
    """Where `download` puts Karpathy's split, and where the profiles look for it."""
    own = raw_dir() / "coco" / LIST
    given = coco_dir() / LIST
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
    image_root = Path(image_root) if image_root is not None else coco_dir()
    json_path = Path(json_path) if json_path is not None else karpathy_json()
    base = images_url.rstrip("/")
    entries = fetch_split(
        lambda: choose(karpathy_entries(json_path, split), limit, random_state),
        json_path,
        image_root,
        archive=Archive(json_url, json_hash, LIST, KARPATHY_BYTES, KARPATHY_JSON_BYTES),
        address=lambda entry: f"{base}/{quote(entry.relative)}",
        image_bytes=IMAGE_BYTES,
        licence=LICENCE,
        workers=workers,
        recheck=recheck,
        progress=progress,
        client=client,
    )
    return resolve(entries, image_root, check_files=True)
