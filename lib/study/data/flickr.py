"""Flickr8k: photographs with five captions each, in Karpathy's split of 6,000, 1,000 and 1,000.

M. Hodosh, P. Young, J. Hockenmaier, "Framing image description as a ranking task", JAIR 47 (2013).
The list is in the archive that holds COCO's split. The photographs are taken from a public
repository that has them at 224 x 224 pixels, at one commit, since the authors' own address is gone;
`data/photos/photographs.txt` holds the checksums of those that results were made from.

Here a photograph is known by its number on Flickr, with which its file name begins, and the order
is that of the file names, so that nothing depends on who numbered the list.
"""

import hashlib
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

from ..paths import data_dir, raw_dir
from .captions import karpathy_entries
from .coco import KARPATHY
from .examples import Entry, Example, choose, resolve
from .fetching import Source, check_image
from .http import InvalidContentError

__all__ = ["FLICKR8K", "check_photograph", "flickr_dir", "flickr_json", "read_flickr"]

LIST = "dataset_flickr8k.json"

LICENCE = (
    "Flickr8k: Hodosh, Young and Hockenmaier (2013) collected the captions. The data set is for "
    "non-commercial research and education only; the photographs belong to their photographers and "
    "keep the licences chosen on Flickr. Do not redistribute them.\n"
)
REMEDY = (
    "`make data PROFILE=photos` downloads it where there is a network; FLICKR8K_ROOT may name a "
    f"folder that holds {LIST} and the photographs."
)


def flickr_dir() -> Path:
    """The folder that the environment variable `FLICKR8K_ROOT` names, else `data/raw/flickr8k`."""
    return Path(os.environ.get("FLICKR8K_ROOT") or raw_dir() / "flickr8k").expanduser()


def flickr_json() -> Path:
    """Where `download` puts the list, and where the profile looks for it."""
    given = flickr_dir() / LIST
    return given if given.exists() else raw_dir() / "flickr8k" / LIST


def read_flickr(
    json_path: str | Path | None = None,
    split: str = "test",
    *,
    image_root: str | Path | None = None,
    limit: int | None = None,
    random_state: int = 0,
    check_files: bool = True,
) -> list[Example]:
    """Read a split from Karpathy's `dataset_flickr8k.json`, in the order of the file names.

    The arguments, and what is raised: see `lib.study.data.captions.read_karpathy`. `image_id` is
    the photograph's number on Flickr. Photographs of any size will do.
    """
    json_path = Path(json_path) if json_path is not None else flickr_json()
    root = Path(image_root) if image_root is not None else flickr_dir()
    chosen = choose(_entries(json_path, split), limit, random_state)
    return resolve(chosen, root, check_files, remedy=REMEDY)


def check_photograph(path: Path) -> None:
    """Decode a photograph, and compare it with what results were made from, where that is known.

    Only those that arrive are: ones that were there before, such as larger ones of one's own, are
    used as they are.

    Raises:
        InvalidContentError: if it is damaged, or another one.
    """
    check_image(path)
    name = path.name.removesuffix(".partial")
    known = _checksums(data_dir() / "photos" / "photographs.txt").get(name)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if known is not None and not found.startswith(known):
        raise InvalidContentError(f"its sha256 begins {found[:16]}, not {known}")


@cache
def _checksums(path: Path) -> dict[str, str]:
    """`{file name: first digits of its SHA-256}`."""
    if not path.is_file():
        return {}
    rows = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return {name: digits for digits, name in rows}


def _entries(path: Path, split: str) -> list[Entry]:
    """The entries of a split by file name, numbered as Flickr does."""
    entries = karpathy_entries(path, split, remedy=REMEDY)
    named = [replace(entry, image_id=_number(entry, path)) for entry in entries]
    return sorted(named, key=lambda entry: entry.name)


def _number(entry: Entry, path: Path) -> int:
    digits = entry.name.partition("_")[0]
    if not digits.isdecimal():
        raise ValueError(f"{path}: {entry.name!r} does not begin with a photograph's number")
    return int(digits)


FLICKR8K = Source(
    archive=KARPATHY._replace(member=LIST, unpacked=8_100_000),
    images_url=(
        "https://raw.githubusercontent.com/RlNZLER/Image-Text-Matching/"
        "56a15d913c3f290e2ee896386ece6076c1eea02e/data/images"
    ),
    image_bytes=26_700,
    split_sizes={"train": 6_000, "val": 1_000, "test": 1_000},
    licence=LICENCE,
    listing=flickr_json,
    folder=flickr_dir,
    entries=_entries,
    check=check_photograph,
    remedy=REMEDY,
)
