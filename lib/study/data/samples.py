"""Photographs that scikit-learn ships, for figures: those of Flickr8k may not be shown."""

from importlib.resources import as_file, files
from pathlib import Path

__all__ = ["SAMPLES", "sample_photograph"]

#: what each shows, and whose it is, as scikit-learn's `datasets/images/README.txt` says
SAMPLES = {
    "china": "china.jpg of scikit-learn, photograph by danielbuechele (CC BY 2.0)",
    "flower": "flower.jpg of scikit-learn, photograph by vultilion (CC BY 2.0)",
}


def sample_photograph(name: str) -> Path:
    """The file of one of `SAMPLES`; raises `ValueError` for another name.

    >>> sample_photograph("china").name
    'china.jpg'
    """
    if name not in SAMPLES:
        raise ValueError(f"no sample photograph {name!r}: there are {', '.join(SAMPLES)}")
    with as_file(files("sklearn.datasets.images") / f"{name}.jpg") as path:
        return Path(path)
