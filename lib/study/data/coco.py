"""COCO captions in Karpathy's split: where they are published, and where they lie here.

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

from ..paths import raw_dir
from .captions import karpathy_entries, read_coco_captions, read_karpathy
from .examples import Example, missing_images
from .fetching import Archive, Source

__all__ = [
    "COCO",
    "KARPATHY",
    "Example",
    "coco_dir",
    "karpathy_json",
    "missing_images",
    "read_coco_captions",
    "read_karpathy",
]

LIST = "dataset_coco.json"
#: lists of COCO and of Flickr; dataset_coco.json unpacked, rounded up (directory listings in public
#: READMEs show 144,186,139)
KARPATHY = Archive(
    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
    "sha256:4cfd70132527b80933105e5829dc9034eaab9573482e2e680abbab6130244817",
    LIST,
    size=36_745_453,
    unpacked=145_000_000,
)
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


COCO = Source(
    archive=KARPATHY,
    images_url="https://s3.amazonaws.com/images.cocodataset.org",
    # val2014.zip is 6,645,013,297 bytes (TensorFlow Datasets) for 40,504 images
    image_bytes=164_058,
    # tensorflow.org/datasets/catalog/coco_captions
    split_sizes={"train": 82_783, "restval": 30_504, "val": 5_000, "test": 5_000},
    licence=LICENCE,
    listing=karpathy_json,
    folder=coco_dir,
    entries=karpathy_entries,
)
